-- One thing that the joins noticed about a request, the weightiest first.
-- parameters: subjects
SELECT kind, sentence, score, evidence, details
FROM finding
WHERE subject IN (SELECT unnest($subjects::VARCHAR[]))
GROUP BY ALL
ORDER BY score DESC NULLS LAST
LIMIT 50
