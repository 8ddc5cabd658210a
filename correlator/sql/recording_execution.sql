-- One execution on a GPU in a recording that was imported whole and whose time may be used. Times in ns of node time.
SELECT gpu_kernel.* EXCLUDE (validity)
FROM gpu_kernel
SEMI JOIN recording ON recording.recording_uid = gpu_kernel.recording_uid
WHERE coalesce(gpu_kernel.validity, 'ok') = 'ok' AND gpu_kernel.kind IN ('kernel', 'memcpy', 'memset', 'graph')
