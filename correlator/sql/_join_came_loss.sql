-- The stretch of time of one loss that came now, and the minute around it in which exchanges are joined otherwise. A source that
-- stood still for long counts what it lost meanwhile as of then: it is read an hour after its beginning at most.
-- within: loss 0 s
SELECT start_ns - 60_000_000_000 AS first_ns, least(end_ns, start_ns + 3_600_000_000_000) + 60_000_000_000 AS last_ns
FROM loss
WHERE start_ns >= $since_ns AND start_ns <= $until_ns AND end_ns > start_ns
