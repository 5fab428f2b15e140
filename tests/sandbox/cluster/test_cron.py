from datetime import UTC, datetime, timedelta

from tests.sandbox.tiny import Factory, container, happened, job, shell, until

DUE = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


def cronjob(script: str, schedule: str = "* * * * *", **spec: object) -> dict[str, object]:
    template = {"spec": job(container(shell(script)))["spec"]}
    return {
        "kind": "CronJob",
        "metadata": {"name": "backup", "namespace": "training"},
        "spec": {"schedule": schedule, "jobTemplate": template, **spec},
    }


def test_a_schedule_fires_on_the_fast_clock_at_its_minutes(make_cluster: Factory) -> None:
    """Every 10 minutes at 1,200 times the speed is twice a second."""
    cluster = make_cluster(cronjob("true", "*/10 * * * *"), speed=1200)
    cluster.start()
    until(lambda: len(happened(cluster, "cron-fired")) >= 3)
    minutes = [int(event.details["job"].rpartition("-")[2]) for event in cluster.events
               if event.what == "cron-fired"]  # fmt: skip
    assert all(minute % 10 == 0 for minute in minutes)
    assert len(set(minutes)) == len(minutes)


def test_forbid_skips_a_firing_while_the_last_one_runs(make_cluster: Factory) -> None:
    cluster = make_cluster(cronjob("sleep 600", concurrencyPolicy="Forbid"))
    cron = cluster.cronjobs["training", "backup"]
    first = cron.fire(DUE)
    assert first is not None
    assert cron.fire(DUE + timedelta(minutes=1)) is None
    first.delete()
    assert cron.missed == 1


def test_a_suspended_schedule_never_fires(make_cluster: Factory) -> None:
    cluster = make_cluster(cronjob("true", suspend=True), speed=100_000)
    cluster.start()
    assert not cluster.cronjobs["training", "backup"]._thread.is_alive()


def test_replacing_a_running_job_is_refused_by_name(make_cluster: Factory) -> None:
    cluster = make_cluster(cronjob("true", concurrencyPolicy="Replace"))
    assert not cluster.cronjobs
    assert "Replace" in cluster.not_run()[0]
