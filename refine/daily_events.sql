-- target: daily_events
-- zone: curated
-- needs: processed_events
-- partitions: dt
-- received: first_received_at
--
-- What happened each day, by source, name and action. A sum of value is in whatever unit the senders count.
SELECT
    source,
    name,
    action,
    count(*) AS events,
    count(DISTINCT user_id) AS users,
    sum(value) AS total_value,
    avg(value) AS mean_value,
    min(value) AS smallest_value,
    max(value) AS largest_value,
    min(occurred_at) AS first_at,
    max(occurred_at) AS last_at,
    round(avg(quality_score), 1) AS mean_quality_score,
    min(first_received_at) AS first_received_at,
    dt
FROM processed_events
WHERE dt BETWEEN '${from}' AND '${to}'
GROUP BY source, name, action, dt
