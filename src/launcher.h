/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The launcher: keeps workers running in the databases that
 *		event_sourcing.databases names.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_LAUNCHER_H
#define ES_LAUNCHER_H

/* Have the postmaster start it; while libraries are preloaded. */
extern void es_launcher_register(void);

#endif							/* ES_LAUNCHER_H */
