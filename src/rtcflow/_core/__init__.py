"""What crosses threads and backends: waiting, bounded queues, playout, worker threads, errors of user code."""
