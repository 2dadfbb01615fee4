/*-------------------------------------------------------------------------
 *
 * shadow.h
 *		Shadows: tables beside those of a projection, which are to take their
 *		place when they are filled.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_SHADOW_H
#define ES_SHADOW_H

#include "projection_definition.h"

typedef struct EsShadow EsShadow;

/*
 * Make an empty table of the same shape for each target of a projection, for
 * its owner.  NULL, with a sentence that says why, when they could not take the
 * targets' place.  Takes no lock on a target.  In a subtransaction, whose
 * rollback removes them; connected to SPI.  In the current context.
 */
extern EsShadow *es_shadow_create(EsProjection *projection, Oid owner, char **reason);

/* The projection as it is to be run: by the same code, which finds the shadows. */
extern EsProjection *es_shadow_projection(EsShadow *shadow);

/*
 * Whether what was run has reached the targets themselves, to write or to read:
 * then the shadows are not what they should be.  NULL, or a sentence that says so.
 */
extern char *es_shadow_missed(EsShadow *shadow);

/*
 * Let the shadows' rows take the place of the targets'.  Waits for all who use
 * the targets, and keeps everybody from them until the transaction ends.  NULL,
 * or a sentence that says why it cannot be done.
 */
extern char *es_shadow_swap(EsShadow *shadow);

#endif							/* ES_SHADOW_H */
