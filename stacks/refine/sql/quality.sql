-- target: quality
-- zone: curated
-- needs: processed_events
-- partitions: dt
-- received: first_received_at
-- metrics: rows_in, rows_out, duplicates, completeness, nulls
--
-- How good the events of each day are. rows_in = rows_out + duplicates + not_refined, where not_refined are events that
-- came in after processed_events was made: the next run takes them. completeness is the share of the four columns that
-- most questions ask for (name, action, source, user_id) that has a value.
WITH deliveries AS (
    SELECT
        date_format(occurred_at, '%Y-%m-%d') AS dt,
        received_at,
        coalesce(lag(received_at) OVER copies < least(occurred_at, received_at) - interval '7' day, true) AS is_first
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date '${from}' - interval '8' day, '%Y-%m-%d')
    WINDOW copies AS (PARTITION BY event_id
        ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at)
),
received AS (
    SELECT dt, count(*) AS rows_in, count_if(NOT is_first) AS duplicates,
        min(received_at) AS first_received_at
    FROM deliveries
    WHERE dt BETWEEN '${from}' AND '${to}'
    GROUP BY dt
),
refined AS (
    SELECT
        dt,
        count(*) AS rows_out,
        count_if(is_late) AS late_rows,
        avg(quality_score) AS mean_quality_score,
        count_if(name IS NULL) AS nulls_name,
        count_if(action IS NULL) AS nulls_action,
        count_if(value IS NULL) AS nulls_value,
        count_if(source IS NULL) AS nulls_source,
        count_if(user_id IS NULL) AS nulls_user_id
    FROM processed_events
    WHERE dt BETWEEN '${from}' AND '${to}'
    GROUP BY dt
)
SELECT
    rows_in,
    coalesce(rows_out, 0) AS rows_out,
    duplicates,
    rows_in - duplicates - coalesce(rows_out, 0) AS not_refined,
    coalesce(late_rows, 0) AS late_rows,
    round(1e0 - (nulls_name + nulls_action + nulls_source + nulls_user_id) / (4e0 * rows_out), 4) AS completeness,
    round(mean_quality_score, 1) AS mean_quality_score,
    nulls_name,
    nulls_action,
    nulls_value,
    nulls_source,
    nulls_user_id,
    nulls_name + nulls_action + nulls_value + nulls_source + nulls_user_id AS nulls,
    first_received_at,
    received.dt AS dt
FROM received
LEFT JOIN refined ON refined.dt = received.dt
