-- One step of a recording, with the GPU time of its executions.
-- parameters: recording
SELECT step.ordinal, step.recording_rank, step.start_ns, step.end_ns, step.end_ns - step.start_ns AS duration_ns, step.requests,
    step.context_tokens, step.generation_tokens, step.annotation
FROM engine_step AS step
WHERE step.recording_uid = $recording::VARCHAR
ORDER BY step.start_ns
LIMIT 5000
