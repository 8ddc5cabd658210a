-- What a row that came says of one process's parent, as a number.
-- within: process 0 s
SELECT DISTINCT hash(process_uid, parent_uid) AS said
FROM process
WHERE start_ns >= $since_ns AND start_ns <= $until_ns
