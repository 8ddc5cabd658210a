-- What several views of one request ask alike. Not a view: the store makes these before the views.

-- The rows of `alias` of the request that `request` names: by any id that it is known by, or by the request_uid of the view
-- `request`, which names its exchange: node/side/process/connection/ordinal/start. Each id is asked for by itself and as one
-- value, because only then its files' Bloom filters (results.py) spare reading the aliases of all other requests.
CREATE OR REPLACE MACRO aliases_of(request) AS TABLE
    WITH known AS MATERIALIZED (
        SELECT request_uid FROM alias
        WHERE value IN (request, concat_ws('/', split_part(request, '/', 1), split_part(request, '/', -3),
            split_part(request, '/', -2), split_part(request, '/', 2)))
        UNION
        SELECT request_uid FROM alias WHERE attempt_uid = request
    )
    SELECT * FROM alias WHERE request_uid = request
    UNION
    SELECT * FROM alias WHERE request_uid = (SELECT min(request_uid) FROM known)
    UNION
    -- Nearly always none, and then nothing is read.
    SELECT * FROM alias
    WHERE request_uid IN (SELECT request_uid FROM known WHERE request_uid > (SELECT min(request_uid) FROM known));

-- The ids by which its engines knew it, those by which spans and sockets do where no engine tells, and the id that was asked for.
CREATE OR REPLACE MACRO internal_ids(request) AS TABLE
    SELECT value FROM aliases_of(request) WHERE kind IN ('internal_id', 'external_id', 'response_id')
    UNION
    SELECT request;
