-- One name on the lanes of a timeline: how often it ran in a window, for how long, and how much of it in the request's own steps.
-- parameters: since_ns, until_ns, recording, processes, subjects, steps
WITH bar AS (
    SELECT lane, name, class, least(end_ns, $until_ns) - greatest(start_ns, $since_ns) AS lasted_ns,
        step_ordinal IN (SELECT unnest($steps::BIGINT[])) AS own
    FROM timeline_slice
    WHERE start_ns < $until_ns AND end_ns >= $since_ns AND (end_ns > $since_ns OR start_ns = end_ns)
        AND coalesce(recording_uid, '-') = $recording::VARCHAR
        AND (len($processes::VARCHAR[]) = 0 OR process_uid IS NULL OR process_uid IN (SELECT unnest($processes::VARCHAR[])))
        AND (len($subjects::VARCHAR[]) = 0 OR subject IS NULL OR subject IN (SELECT unnest($subjects::VARCHAR[])))
)
SELECT lane, name, any_value(class) AS class, count(*) AS bars, sum(lasted_ns)::BIGINT AS total_ns, max(lasted_ns) AS longest_ns,
    coalesce(sum(lasted_ns) FILTER (own), 0)::BIGINT AS own_ns
FROM bar
GROUP BY lane, name
ORDER BY lane = 'kernel' DESC, total_ns DESC
LIMIT 300
