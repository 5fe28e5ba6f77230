-- target: daily_events
-- zone: curated
-- needs: processed_events
-- partitions: dt
-- received: first_received_at
--
-- What happened each day, by source, name and action. A sum of value is in whatever unit the senders count.
-- Sum and mean have six decimals, and twelve below 1: what comes behind is noise, and would differ from run to run.
-- From 1e9 on they are as they are: a double has 15 digits that count.
SELECT
    source,
    name,
    action,
    count(*) AS events,
    count(DISTINCT user_id) AS users,
    if(abs(sum(value)) < 1e9, round(sum(value), if(abs(sum(value)) < 1, 12, 6)), sum(value)) AS total_value,
    if(abs(avg(value)) < 1e9, round(avg(value), if(abs(avg(value)) < 1, 12, 6)), avg(value)) AS mean_value,
    min(value) AS smallest_value,
    max(value) AS largest_value,
    min(occurred_at) AS first_at,
    max(occurred_at) AS last_at,
    round(avg(quality_score), 1) AS mean_quality_score,
    min(received_at) AS first_received_at,
    dt
FROM processed_events
WHERE dt BETWEEN '${from}' AND '${to}'
GROUP BY source, name, action, dt
