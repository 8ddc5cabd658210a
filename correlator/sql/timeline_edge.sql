-- One statement of the joins about a thing on the timeline: how it belongs to what, known how and how well.
-- parameters: subject
SELECT from_kind, from_id, to_kind, to_id, relation, evidence, rule, confidence, error_low_ns, error_high_ns, alternatives
FROM edge
WHERE from_id = $subject::VARCHAR OR to_id = $subject::VARCHAR
ORDER BY time_ns
LIMIT 50
