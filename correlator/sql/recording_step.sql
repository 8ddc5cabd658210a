-- One step of a recording: one batch through the model, as one rank ran it.
-- parameters: recording
SELECT engine_step.*, end_ns - start_ns AS duration_ns
FROM engine_step
WHERE recording_uid = $recording::VARCHAR
ORDER BY start_ns
LIMIT 5000
