-- What an hour of one GPU or MIG instance costs by the setting correlator_gpu_price: the first price whose word is in its
-- model or profile, else the one for all. The row without a GPU is for those that nobody described.
SELECT gpu_uuid, model, profile, (
    SELECT arg_min(per_hour, place) FROM price WHERE part = '' OR contains(lower(concat_ws(' ', model, profile)), lower(part))
) AS per_hour
FROM (
    SELECT coalesce(mig_uuid, gpu_uuid) AS gpu_uuid, arg_max(model, time_ns) AS model, arg_max(profile, time_ns) AS profile
    FROM gpu
    GROUP BY ALL
    UNION ALL
    SELECT NULL, NULL, NULL
)
