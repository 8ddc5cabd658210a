-- When what a recording holds began and ended; nothing while it is imported, for its own row comes last.
-- parameters: recording
SELECT min(start_ns) AS start_ns, max(end_ns) AS end_ns
FROM timeline_slice
WHERE recording_uid = $recording::VARCHAR AND end_ns < 9223372036854775807
    AND EXISTS (FROM recording WHERE recording.recording_uid = $recording::VARCHAR)
