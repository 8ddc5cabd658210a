-- One engine step that a request took part in.
-- parameters: subjects
SELECT DISTINCT step_ordinal FROM step_member WHERE internal_id IN (SELECT unnest($subjects::VARCHAR[]))
