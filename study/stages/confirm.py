"""The confirm stage, on which the verdict rests: every arm of the plan on fresh seeds."""

from study.jobs import Job
from study.space.settings import Study
from study.spec import derive_seed
from study.stages.plan import Plan


def confirm_jobs(study: Study, plan: Plan) -> list[Job]:
    """Return every arm's replicates on fresh seeds, replicate by replicate, long ones first."""
    arms = sorted(
        plan.arms, key=lambda arm: (arm.spec.method != "deep_ensemble", -arm.spec.members)
    )
    jobs = []
    for replicate in range(max(map(plan.seeds_of, arms), default=0)):
        for arm in arms:
            if replicate >= plan.seeds_of(arm):
                continue
            seed = derive_seed(study.seed, "confirm", arm.role, arm.spec.configuration, replicate)
            jobs.append(Job(arm.spec.trial_of(arm.role, "confirm", replicate, seed), arm.name))
    return jobs
