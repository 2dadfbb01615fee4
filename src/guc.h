/*-------------------------------------------------------------------------
 *
 * guc.h
 *		Settings: event_sourcing.*
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_GUC_H
#define ES_GUC_H

extern char *es_store_setting;	/* event_sourcing.store: a schema's name */
extern char *es_metadata_setting;	/* event_sourcing.metadata: a JSON object or '' */
extern int	es_cache_size_kb;	/* event_sourcing.cache_size */
extern int	es_max_dispatch_depth;	/* event_sourcing.max_dispatch_depth */
extern bool es_direct_log;		/* event_sourcing.direct_log */
extern char *es_databases;		/* event_sourcing.databases: a list, as SplitGUCList() reads it */
extern int	es_workers;			/* event_sourcing.workers, per database */
extern int	es_handler_timeout_ms;	/* event_sourcing.handler_timeout; 0: none */
extern int	es_retry_delay_ms;	/* event_sourcing.retry_delay */

extern void es_guc_init(void);

#endif							/* ES_GUC_H */
