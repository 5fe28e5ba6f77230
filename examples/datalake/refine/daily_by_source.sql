-- target: daily_by_source
-- zone: curated
-- needs: processed_data
-- partitions: dt
-- metrics: records
--
-- What each source sent each day, and how good it was. Records whose temperature cannot be true are counted, but are not
-- part of its mean.
SELECT
    source,
    count(*) AS records,
    count(DISTINCT device_id) AS devices,
    round(avg(temperature) FILTER (WHERE temperature BETWEEN -60 AND 60), 2) AS mean_temperature,
    round(avg(humidity) FILTER (WHERE humidity BETWEEN 0 AND 100), 2) AS mean_humidity,
    round(avg(quality_score), 1) AS mean_quality_score,
    count_if(quality_score = 100) AS perfect_records,
    min(measured_at) AS first_at,
    max(measured_at) AS last_at,
    dt
FROM processed_data
WHERE dt BETWEEN '${from}' AND '${to}'
GROUP BY source, dt
