-- One event of a Chrome trace (JSON text): a bar, the name of a process or thread, or an arrow from a launch to what it launched.
-- Read by `correlator/timeline/perfetto.py`, not a view. Times are µs with three decimals after $base_ns, so no nanosecond is lost.
WITH bar AS (
    SELECT lane, node, process_uid, unit, number, rank, depth, start_ns, end_ns, name, class, step_ordinal, correlation_id, subject
    FROM timeline_slice
    WHERE start_ns < $until_ns AND end_ns >= $since_ns AND (end_ns > $since_ns OR start_ns = end_ns)
        AND coalesce(recording_uid, '-') = $recording::VARCHAR
        AND (len($processes::VARCHAR[]) = 0 OR process_uid IS NULL OR process_uid IN (SELECT unnest($processes::VARCHAR[])))
        AND (len($subjects::VARCHAR[]) = 0 OR subject IS NULL OR subject IN (SELECT unnest($subjects::VARCHAR[])))
        AND lane != 'kernel'
    UNION ALL
    -- Executions come from their table, which tells copies from kernels and how many bytes they moved.
    SELECT 'kernel', node, process_uid, gpu_uuid, cuda_stream, rank, 0, start_ns, coalesce(end_ns, start_ns), coalesce(name, kind),
        CASE kind WHEN 'memcpy' THEN 'gpu_memcpy' WHEN 'memset' THEN 'gpu_memset' ELSE kind END,
        step_ordinal, correlation_id, moved_bytes::VARCHAR
    FROM gpu_kernel
    WHERE start_ns < $until_ns AND end_ns >= $since_ns AND (end_ns > $since_ns OR start_ns = end_ns)
        AND coalesce(recording_uid, '-') = $recording::VARCHAR AND coalesce(validity, 'ok') = 'ok'
        AND (len($processes::VARCHAR[]) = 0 OR process_uid IS NULL OR process_uid IN (SELECT unnest($processes::VARCHAR[])))
), placed AS (
    SELECT *, CASE lane WHEN 'kernel' THEN 'GPU ' || coalesce(unit, '?') WHEN 'annotation' THEN coalesce('GPU ' || unit, process_uid)
        ELSE coalesce(process_uid, unit, node) END AS owner,
        -- What may overlap on its row without being nested is told as asynchronous: viewers stack it.
        lane IN ('kernel', 'launch', 'annotation', 'step', 'syscall', 'off_cpu') AS nests,
        greatest(start_ns, $since_ns) AS from_ns, least(end_ns, $until_ns) AS until_ns
    FROM bar
), numbered AS (
    SELECT *, dense_rank() OVER (ORDER BY node, rank, owner) AS pid,
        dense_rank() OVER (
            ORDER BY node, rank, owner, CASE WHEN lane IN ('launch', 'annotation') THEN 'thread' ELSE lane END, number
        ) AS tid,
        row_number() OVER () AS id
    FROM placed
), written AS (
    SELECT id, pid, tid, nests, from_ns AS start_ns, until_ns, lane, class,
        -- One arrow's id: a correlation id is unique in its process alone. A viewer's numbers hold 53 bits.
        CASE WHEN correlation_id > 0 THEN hash(process_uid, correlation_id) % 9007199254740992 END AS arrow,
        '"name":' || to_json(name)::VARCHAR || ',"cat":"'
        || CASE lane WHEN 'kernel' THEN class WHEN 'launch' THEN 'cuda_runtime' WHEN 'annotation' THEN class
            WHEN 'step' THEN 'engine_step' ELSE lane END
        || '","pid":' || pid || ',"tid":' || tid AS head,
        ',"args":' || json_merge_patch('{}', json_object(
            'correlation', correlation_id, 'stream', CASE lane WHEN 'kernel' THEN number END, 'step', step_ordinal, 'rank', rank,
            'device', CASE lane WHEN 'kernel' THEN coalesce(try_cast(unit AS BIGINT)::VARCHAR, unit) END,
            'bytes', CASE lane WHEN 'kernel' THEN try_cast(subject AS BIGINT) END,
            'class', CASE WHEN lane NOT IN ('kernel', 'launch', 'annotation') THEN class END,
            'subject', CASE WHEN lane != 'kernel' THEN subject END
        ))::VARCHAR AS args
    FROM numbered
)
SELECT '{"ph":"M","name":"process_name","pid":' || pid || ',"tid":0,"args":{"name":'
    || to_json(concat_ws(' · ', 'rank ' || any_value(rank), any_value(owner)))::VARCHAR || '}}' AS event
FROM numbered GROUP BY pid
UNION ALL
SELECT '{"ph":"M","name":"thread_name","pid":' || any_value(pid) || ',"tid":' || tid || ',"args":{"name":'
    || to_json(concat_ws(' ', CASE any_value(lane) WHEN 'kernel' THEN 'stream' WHEN 'launch' THEN 'thread' WHEN 'annotation' THEN
        CASE WHEN any_value(unit) IS NULL THEN 'thread' ELSE 'ranges on stream' END ELSE any_value(lane) END, any_value(number)))::VARCHAR
    || '}}'
FROM numbered GROUP BY tid
UNION ALL
SELECT CASE WHEN nests THEN '{"ph":"X",' || head || ',"ts":' || moment || ',"dur":' || lasts || args || '}'
    ELSE '{"ph":"b","id":' || id || ',' || head || ',"ts":' || moment || args || '},{"ph":"e","id":' || id || ',' || head || ',"ts":'
        || over || '}' END
FROM (
    SELECT *, (start_ns - $base_ns) // 1000 || '.' || lpad(((start_ns - $base_ns) % 1000)::VARCHAR, 3, '0') AS moment,
        (until_ns - $base_ns) // 1000 || '.' || lpad(((until_ns - $base_ns) % 1000)::VARCHAR, 3, '0') AS over,
        (until_ns - start_ns) // 1000 || '.' || lpad(((until_ns - start_ns) % 1000)::VARCHAR, 3, '0') AS lasts
    FROM written
)
UNION ALL
SELECT '{"ph":"s","id":' || arrow || ',"cat":"ac2g","name":"ac2g","pid":' || pid || ',"tid":' || tid || ',"ts":'
    || (start_ns - $base_ns) // 1000 || '.' || lpad(((start_ns - $base_ns) % 1000)::VARCHAR, 3, '0') || '}'
FROM written WHERE lane = 'launch' AND arrow IS NOT NULL
UNION ALL
SELECT '{"ph":"f","bp":"e","id":' || arrow || ',"cat":"ac2g","name":"ac2g","pid":' || pid || ',"tid":' || tid || ',"ts":'
    || (start_ns - $base_ns) // 1000 || '.' || lpad(((start_ns - $base_ns) % 1000)::VARCHAR, 3, '0') || '}'
FROM written WHERE lane = 'kernel' AND arrow IS NOT NULL
