-- target: sensor_days
-- zone: processed
-- partitions: dt
-- metrics: data_quality_score
-- received: pulled_at
--
-- One row for each sensor and day: what was pulled last wins, so that measured values replace preliminary ones. A day
-- is pulled after it is over, so that no event of ${from} was delivered earlier.
WITH pulled AS (
    SELECT
        source AS sensor_id,
        json_extract_scalar(properties, '$.sensor.region') AS region,
        CAST(json_extract_scalar(properties, '$.sensor.latitude') AS double) AS latitude,
        CAST(json_extract_scalar(properties, '$.sensor.longitude') AS double) AS longitude,
        CAST(json_extract_scalar(properties, '$.temperature_2m_max') AS double) AS temperature_max,
        CAST(json_extract_scalar(properties, '$.temperature_2m_min') AS double) AS temperature_min,
        CAST(json_extract_scalar(properties, '$.precipitation_sum') AS double) AS precipitation,
        received_at AS pulled_at,
        date_format(occurred_at, '%Y-%m-%d') AS dt,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at DESC, request_id DESC, source, occurred_at, properties) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= '${from}' AND name = 'weather'
),
latest AS (
    SELECT *,
        round((temperature_max + temperature_min) / 2, 2) AS temperature_avg,
        temperature_max IS NOT NULL AND temperature_min IS NOT NULL AND precipitation IS NOT NULL AS is_complete
    FROM pulled
    WHERE delivery = 1 AND dt BETWEEN '${from}' AND '${to}'
)
SELECT
    sensor_id,
    region,
    latitude,
    longitude,
    temperature_max,
    temperature_min,
    precipitation,
    round(temperature_max * 9 / 5 + 32, 1) AS temperature_max_f,
    round(temperature_min * 9 / 5 + 32, 1) AS temperature_min_f,
    temperature_avg,
    round(temperature_max - temperature_min, 1) AS temperature_range,
    CASE
        WHEN temperature_avg < 0 THEN 'freezing'
        WHEN temperature_avg < 10 THEN 'cold'
        WHEN temperature_avg < 18 THEN 'mild'
        WHEN temperature_avg < 25 THEN 'warm'
        WHEN temperature_avg >= 25 THEN 'hot'
    END AS temp_category,
    CASE
        WHEN precipitation = 0 THEN 'none'
        WHEN precipitation < 2.5 THEN 'light'
        WHEN precipitation < 10 THEN 'moderate'
        WHEN precipitation < 50 THEN 'heavy'
        WHEN precipitation >= 50 THEN 'extreme'
    END AS precipitation_level,
    is_complete,
    -- What is there, and can it be true?
    CASE WHEN temperature_max IS NULL THEN 0 ELSE 30 END
        + CASE WHEN temperature_min IS NULL THEN 0 ELSE 30 END
        + CASE WHEN precipitation IS NULL THEN 0 ELSE 20 END
        + CASE WHEN -90 <= temperature_min AND temperature_min <= temperature_max AND temperature_max <= 60
            THEN 20 ELSE 0 END AS data_quality_score,
    round(avg(temperature_avg) OVER (PARTITION BY dt, region), 2) AS region_avg_temp,
    round(sum(precipitation) OVER (PARTITION BY dt, region), 1) AS region_total_precipitation,
    pulled_at,
    dt
FROM latest
