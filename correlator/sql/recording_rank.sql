-- One rank of a recording of several: how far its clock seems ahead of the lowest rank's, by when the same collectives ended. In ns.
-- parameters: recording
WITH collective AS (
    SELECT rank, name, end_ns, row_number() OVER (PARTITION BY rank, name ORDER BY start_ns) AS turn,
        count(*) OVER (PARTITION BY rank, name) AS times
    FROM recording_execution
    WHERE recording_uid = $recording::VARCHAR AND kernel_class = 'communication' AND rank IS NOT NULL
), pair AS (
    -- A collective ends on all ranks at about one moment. Where ranks ran a name unequally often, its turns are not the same.
    SELECT other.rank, other.end_ns - base.end_ns AS ahead_ns
    FROM collective AS other
    INNER JOIN collective AS base ON base.name = other.name AND base.turn = other.turn AND base.times = other.times
    WHERE base.rank = (SELECT min(rank) FROM collective)
), known AS (
    SELECT rank, min(start_ns) AS start_ns, max(end_ns) AS end_ns, count(*) AS executions
    FROM recording_execution
    WHERE recording_uid = $recording::VARCHAR AND rank IS NOT NULL
    GROUP BY rank
)
SELECT known.rank, known.start_ns, known.end_ns, known.executions, count(pair.ahead_ns) AS collectives,
    median(pair.ahead_ns)::BIGINT AS ahead_ns, mad(pair.ahead_ns)::BIGINT AS spread_ns,
    CASE WHEN count(pair.ahead_ns) = 0 THEN 'unknown' ELSE 'estimated' END AS evidence
FROM known
LEFT JOIN pair USING (rank)
GROUP BY known.rank, known.start_ns, known.end_ns, known.executions
ORDER BY known.rank
