-- The sample queries of this example. scripts/deploy.sh --queries adds them to those of queries.sql.

-- raw-records: What did the sensors send lately, as it came?
-- The raw zone: dt is the day of delivery, and the envelope is in properties.
SELECT received_at, source, properties
FROM "${AthenaDatabaseName}"."${AthenaTableName}"
WHERE source = 'iot_sensors' AND dt >= date_format(current_date - interval '7' day, '%Y-%m-%d')
ORDER BY received_at DESC, event_id, source, properties
LIMIT 10;

-- quality-by-source: How many records does each source have, and how good are they?
-- The processed zone. dt is the day of the record, and the partition: a month reads a month.
SELECT source, count(*) AS record_count, round(avg(quality_score), 1) AS avg_quality
FROM processed_data
WHERE dt BETWEEN '2025-11-01' AND '2025-11-30'
GROUP BY source
ORDER BY source;

-- daily-by-source: What did each source send each day?
-- The curated zone: a row a day and source, ready for a dashboard.
SELECT dt AS day, source, records, devices, mean_temperature, mean_humidity, mean_quality_score, perfect_records
FROM daily_by_source
ORDER BY dt, source;

-- warmest-devices: Which devices were the warmest when they were last heard of?
SELECT dt AS day, source, device_id, location, temperature, last_at
FROM device_days
WHERE temperature BETWEEN -60 AND 60
ORDER BY temperature DESC, dt, source, device_id
LIMIT 5;
