-- One engine step that a request took part in.
-- parameters: subjects, since_ns, until_ns
-- within: step_member 60 s
SELECT DISTINCT step_ordinal FROM step_member WHERE internal_id IN (SELECT unnest($subjects::VARCHAR[]))
    AND time_ns >= $since_ns - 60000000000 AND time_ns < $until_ns + 60000000000
