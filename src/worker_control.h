/*-------------------------------------------------------------------------
 *
 * worker_control.h
 *		Starting and stopping the workers of a database, by hand and for
 *		statements that need the database for themselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_WORKER_CONTROL_H
#define ES_WORKER_CONTROL_H

extern void es_worker_control_init(void);

#endif							/* ES_WORKER_CONTROL_H */
