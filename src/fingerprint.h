/*-------------------------------------------------------------------------
 *
 * fingerprint.h
 *		What folding depends on, as a number.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_FINGERPRINT_H
#define ES_FINGERPRINT_H

#include "aggregate.h"

/*
 * A text that changes whenever folding may give another state: with the apply
 * functions, the functions that they name, and the shapes of the types.  The
 * same before and after a dump and restore.  Computed once per load of the
 * definitions; lives as long as the aggregate.
 */
extern const char *es_fingerprint(EsAggregate *aggregate);

#endif							/* ES_FINGERPRINT_H */
