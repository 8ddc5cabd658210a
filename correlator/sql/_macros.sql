-- What several views of one request ask alike. Not a view: the store makes these before the views.

-- Whether a row of `alias` is of the request that `request` names: by any id that it is known by, or by the request_uid of the
-- view `request`, which names its exchange: node/side/process/connection/ordinal/start.
CREATE OR REPLACE MACRO is_known_as(request, value, attempt_uid, request_uid) AS
    request IN (value, attempt_uid, request_uid) OR value = concat_ws('/', split_part(request, '/', 1), split_part(request, '/', -3),
        split_part(request, '/', -2), split_part(request, '/', 2));

-- The ids by which its engines knew it, and the id that was asked for.
CREATE OR REPLACE MACRO internal_ids(request) AS TABLE
    SELECT value FROM alias
    WHERE kind = 'internal_id' AND request_uid IN (
        SELECT request_uid FROM alias WHERE is_known_as(request, value, attempt_uid, request_uid)
    )
    UNION
    SELECT request;
