/*-------------------------------------------------------------------------
 *
 * dispatch.h
 *		Dispatching commands.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_DISPATCH_H
#define ES_DISPATCH_H

extern void es_dispatch_init(void);

#endif							/* ES_DISPATCH_H */
