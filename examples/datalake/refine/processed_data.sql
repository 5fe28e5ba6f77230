-- target: processed_data
-- zone: processed
-- partitions: dt
-- metrics: quality_score
--
-- One row a record, cleaned and typed: data and metadata of the envelope become columns. A record belongs to the day of
-- its own timestamp, not to that of its delivery. Of the rows of one event_id the first received counts, as in
-- stacks/refine/sql/processed_events.sql.
WITH envelopes AS (
    SELECT
        event_id, name, action, value, source, user_id, occurred_at, received_at, clock_skew_ms, properties, request_id,
        -- In UTC, whatever the offset. A record without a time that can be read is of when it was received.
        coalesce(
            CAST(at_timezone(try_cast(replace(replace(json_extract_scalar(properties, '$.data.timestamp'), 'T', ' '),
                'Z', ' UTC') AS timestamp with time zone), 'UTC') AS timestamp),
            occurred_at
        ) AS measured_at,
        json_extract_scalar(properties, '$.data.timestamp') IS NOT NULL AS has_timestamp,
        json_extract_scalar(properties, '$.data.device_id') AS device_id,
        try_cast(json_extract_scalar(properties, '$.data.temperature') AS double) AS temperature,
        try_cast(json_extract_scalar(properties, '$.data.humidity') AS double) AS humidity,
        json_extract_scalar(properties, '$.metadata.location') AS location,
        json_extract_scalar(properties, '$.metadata.firmware_version') AS firmware_version
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date '${from}' - interval '8' day, '%Y-%m-%d')
),
deliveries AS (
    SELECT *,
        coalesce(lag(received_at) OVER copies < least(measured_at, received_at) - interval '7' day, true) AS is_first
    FROM envelopes
    WINDOW copies AS (PARTITION BY event_id ORDER BY received_at, request_id, name, action, value, source, user_id,
        occurred_at, clock_skew_ms, properties)
)
SELECT
    event_id AS record_id,
    coalesce(source, 'unknown') AS source,
    measured_at,
    received_at,
    device_id,
    temperature,
    humidity,
    location,
    firmware_version,
    -- 25 points each: it says who, when, where, and something that can be true.
    CASE WHEN device_id IS NULL THEN 0 ELSE 25 END
        + CASE WHEN has_timestamp THEN 25 ELSE 0 END
        + CASE WHEN location IS NULL THEN 0 ELSE 25 END
        + CASE WHEN temperature BETWEEN -60 AND 60 AND humidity BETWEEN 0 AND 100 THEN 25 ELSE 0 END AS quality_score,
    properties AS envelope,
    date_format(measured_at, '%Y-%m-%d') AS dt
FROM deliveries
WHERE is_first AND CAST(measured_at AS date) BETWEEN date '${from}' AND date '${to}'
