-- target: region_days
-- zone: curated
-- needs: sensor_days
-- partitions: dt
-- received: first_pulled_at
--
-- One row for each region and day, with the week that ends on it. A day that is made again changes the six days after
-- it, which are to be made again too: a run of the pull stack begins at its oldest day and ends at the newest.
WITH days AS (
    SELECT
        region,
        CAST(dt AS date) AS day,
        count(*) AS sensors,
        avg(temperature_avg) AS temperature_avg,
        sum(precipitation) / count(precipitation) AS precipitation,
        avg(data_quality_score) AS data_quality_score,
        min(pulled_at) AS pulled_at
    FROM sensor_days
    WHERE dt BETWEEN date_format(date '${from}' - interval '6' day, '%Y-%m-%d') AND '${to}'
    GROUP BY region, dt
),
weeks AS (
    SELECT *,
        avg(temperature_avg) OVER week AS week_temperature_avg,
        sum(precipitation) OVER week AS week_precipitation,
        min(pulled_at) OVER week AS first_pulled_at
    FROM days
    WINDOW week AS (PARTITION BY region ORDER BY day RANGE BETWEEN interval '6' day PRECEDING AND CURRENT ROW)
)
SELECT
    region,
    sensors,
    round(temperature_avg, 2) AS temperature_avg,
    round(precipitation, 2) AS precipitation,
    round(week_temperature_avg, 2) AS week_temperature_avg,
    round(week_precipitation, 2) AS week_precipitation,
    rank() OVER (PARTITION BY day ORDER BY round(temperature_avg, 4) DESC) AS warmest,
    round(data_quality_score, 1) AS data_quality_score,
    first_pulled_at,
    date_format(day, '%Y-%m-%d') AS dt
FROM weeks
WHERE day BETWEEN date '${from}' AND date '${to}'
