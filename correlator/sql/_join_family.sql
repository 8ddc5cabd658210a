-- One process and its parent: a worker's engine is its parent or its parent's other child.
SELECT process_uid, last(parent_uid ORDER BY start_ns) AS parent_uid FROM process GROUP BY process_uid
