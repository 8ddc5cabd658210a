-- One instance of an alert rule in the state that it was last seen in.
SELECT rule, labels::VARCHAR AS labels, state, severity, summary, value, time_ns, notified
FROM alert
QUALIFY row_number() OVER (PARTITION BY rule, labels ORDER BY time_ns DESC) = 1
ORDER BY CASE state WHEN 'firing' THEN 0 WHEN 'pending' THEN 1 WHEN 'no_data' THEN 2 ELSE 3 END, time_ns DESC
