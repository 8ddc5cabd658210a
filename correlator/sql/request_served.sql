-- One attempt of a request inside the engines that served it, as `request_engine` tells it, of one attempt: `id` is its attempt_uid.
-- parameters: id, since_ns, until_ns
-- within: request_engine 0 s
SELECT *
FROM request_engine
WHERE attempt_uid = $id::VARCHAR AND coalesce(end_ns, start_ns) >= $since_ns AND start_ns < $until_ns
