"""Measures the claims of a published system: ``python -m experiments.study study=verification_gap [size=tiny]``.

Runs every arm of a study with every seed through the executor and writes ``study.json`` (rows, and each claim with its
statistic, interval and verdict), tables, figures and the page. Finished seeds are not run again: ``resume=<folder>``
resumes an interrupted study and may also add seeds. Several studies (``-m study=a,b``) are resumed with the folder of
their sweep.

``size=full`` is the paper's setting for models of 1 to 8B parameters: it prints setting, expectations and cost, and
runs the same code on random weights of the same architecture; ``dry_run=false settings.model=<folder>`` runs it for
real.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.cli import UserError, console, entry_point, resolved_yaml
from experiments.compare import refuse_changed_config, run_jobs, say_crashed
from experiments.evidence.studies import exhibits, overview, study_page
from experiments.executors import running
from experiments.jobs import Job
from experiments.progress import Display
from experiments.refusals import refuse_no_config
from experiments.report import write_exhibits
from experiments.schema import StudyConfig, StudySeedConfig
from experiments.studies import FULL, load, refuse_wrong_settings, settings_of
from rewards import nearest
from rewards.wording import counted
from rl.analysis.claims import Figure, Finding, judge
from rl.tracking import describe_run, write_json

DRY_MODEL = "dry_model"
"""Name of the folder for the random weights, inside the folder of a dry run."""


def chosen(cfg: StudyConfig) -> dict[str, Any]:
    """The settings of the chosen size, overridden by ``cfg.settings``.

    Raises:
        UserError: If the study has no such size.
    """
    sizes = cfg.study.sizes
    if cfg.size not in sizes:
        raise UserError(f"size={cfg.size}: {cfg.study.name} has {', '.join(sizes)}{nearest(cfg.size, sizes)}")
    return {**sizes[cfg.size], **cfg.settings}


def is_full(cfg: StudyConfig) -> bool:
    """Whether ``size=full`` is one with its own module in :mod:`experiments.full`; a plugin's study may lack one."""
    return cfg.size == "full" and cfg.study.name in FULL


def is_dry(cfg: StudyConfig) -> bool:
    """Whether the study runs on random weights instead of the real model."""
    return is_full(cfg) and cfg.dry_run is not False


def plan(cfg: StudyConfig, folder: Path) -> list[Job]:
    """Returns one job per seed, which runs all arms.

    A dry run has only the first seed, the settings ``DRY`` of its module below the given ones, and its model in the
    study's folder.
    """
    settings, seeds = chosen(cfg), cfg.seeds
    if is_dry(cfg):
        seeds = seeds[:1]
        study: Any = load(cfg.study.name, cfg.size)
        settings = {**study.DRY, **settings, "model": str(folder / DRY_MODEL)}
    name, config = cfg.study.name, StudySeedConfig(cfg.plugins, settings, cfg.threads, cfg.size if is_full(cfg) else "")
    return [Job.make("study", name, seed, config, folder / "seeds" / f"seed_{seed}") for seed in seeds]


def run(cfg: StudyConfig) -> Path:
    """Runs all unfinished seeds and prints the verdict on each claim; returns the folder."""
    refuse_no_config(cfg, StudyConfig, "study")
    refuse_wrong_settings(cfg.study.name, cfg.size, chosen(cfg))  # Checked before torch is loaded, which is slow.
    from experiments.folders import open_run

    settings = settings_of(load(cfg.study.name, cfg.size), chosen(cfg))  # Refuses settings before a folder is made.
    if is_full(cfg):
        announce(cfg, settings)
    with open_run(cfg, "study") as folder:
        run_study(cfg, folder)
    return folder


main = entry_point("study")(run)


def announce(cfg: StudyConfig, settings: Any) -> None:
    """Prints the plan and cost of the full size, and whether this is a dry run or a real one."""
    from experiments.full.plan import lines, planned

    for line in lines(planned(cfg.study.name, settings, len(cfg.seeds))):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    dry = "Dry run: the same code, smaller, one seed, on random weights of the same architecture; no number counts."
    console.print(dry if is_dry(cfg) else "This runs for real.", highlight=False, soft_wrap=True)


def run_study(cfg: StudyConfig, folder: Path) -> None:
    """Runs all unfinished seeds in a study's folder, and writes the report.

    Raises:
        UserError: If a seed crashed; the finished seeds are reported first.
    """
    cfg = resumed(cfg, folder)
    began = time.time()
    with running(cfg, folder) as executor:
        jobs = plan(cfg, folder)
        for job in (done := [job for job in jobs if job.is_done]):
            refuse_changed_config(job)
        describe_run(folder, resolved_yaml(cfg))  # Written only now: the folder must not keep a refused config.
        if is_dry(cfg):
            from experiments.full.shapes import write_dry_model

            write_dry_model(settings_of(load(cfg.study.name, cfg.size), chosen(cfg)).model, folder / DRY_MODEL)
        n_arms = len(load(cfg.study.name, cfg.size).ARMS)
        planned = f"{counted(n_arms, 'arm')} x {counted(len(jobs), 'seed')}"
        said = f"{cfg.study.name}, size {cfg.size}: {planned}, in {folder}"
        console.print(said + (f"; finished already: {counted(len(done), 'seed')}" if done else ""), highlight=False)
        with Display(console, one_run=False) as display:
            crashed = run_jobs([job for job in jobs if not job.is_done], executor, display, cfg.retries)
    say_crashed(crashed)
    if finished := [job for job in jobs if job.is_done]:
        report(cfg, finished, folder, began)
    if crashed:
        raise UserError(f"crashed: {counted(len(crashed), 'seed')}; see error.txt and job.log in {folder}/seeds. "
                        f"resume={folder} tries them again")  # fmt: skip


def resumed(cfg: StudyConfig, folder: Path) -> StudyConfig:
    """Returns the config with the seeds of its folder in front of its own, since resuming may add seeds.

    Raises:
        UserError: If the folder holds another study, or one with another size or ``dry_run`` setting, of which at least
            one is the full size.
    """
    if not (folder / "config.yaml").exists():
        return cfg
    stored: Any = OmegaConf.load(folder / "config.yaml")
    if stored.study.name != cfg.study.name:
        raise UserError(f"resume: {folder} holds the study {stored.study.name}, not {cfg.study.name}")
    was_real, is_real = stored.get("dry_run") is False, cfg.dry_run is False
    if "full" in (stored.size, cfg.size) and (stored.size, was_real) != (cfg.size, is_real):
        was = f"size={stored.size}" + (" dry_run=false" if was_real else "")
        raise UserError(f"resume: {folder} was started with {was}; continue with the same")
    return replace(cfg, seeds=list(dict.fromkeys([*stored.seeds, *cfg.seeds])))


def report(cfg: StudyConfig, finished: Sequence[Job], folder: Path, began: float) -> None:
    """Writes and prints the results of the finished seeds, and updates the overview page of all studies."""
    findings = write_study(cfg, finished, folder)
    for one in findings:
        if one.by_seed:
            console.print(f"- {one.line}", highlight=False, markup=False)
    if others := [one.name for one in findings if not one.by_seed]:
        said = "not judged, this is a dry run" if is_dry(cfg) else "not measured at this size"
        console.print(f"- {said}: {', '.join(others)}", highlight=False, markup=False)
    page, made = overview(root := Path(cfg.runs_dir) / cfg.name)
    write_exhibits(made, root)
    page.write(root / "index.html")
    console.print(f"{time.time() - began:.0f} s; page: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    console.print(f"all studies: {root / 'index.html'}", highlight=False, soft_wrap=True)


def write_study(cfg: StudyConfig, jobs: Sequence[Job], folder: Path) -> list[Finding]:
    """Writes ``study.json``, exhibits and the page from the files of the finished seeds; returns the findings."""
    study = load(cfg.study.name, cfg.size)
    rows = [row for job in jobs for row in json.loads((job.folder / "result.json").read_text("utf-8"))["rows"]]
    lines = [line for job in jobs for line in (job.folder / "rows.jsonl").read_text("utf-8").splitlines()]
    # Sentences, titles and captions contain names of settings in braces, which are filled in here.
    settings = asdict(settings_of(study, jobs[0].arm.config.settings))
    claims = [replace(one, sentence=one.sentence.format(**settings)) for one in study.CLAIMS]
    figures = [
        replace(one, title=one.title.format(**settings), caption=one.caption.format(**settings))
        if isinstance(one, Figure)
        else one
        for one in study.EXHIBITS
    ]
    findings = [judge(claim, [] if is_dry(cfg) else rows) for claim in claims]  # Random weights support no claim.
    shown = rows
    if is_dry(cfg):  # Random weights support no prediction of the gate, either.
        shown = [{key: value for key, value in row.items() if not key.startswith("gate_")} for row in rows]
    made = exhibits(findings, shown, figures)
    result = {
        "study": cfg.study.name,
        "size": cfg.size,
        "seeds": [job.seed for job in jobs],
        "settings": settings,
        "claims": [one.to_json() for one in findings],
        "rows": rows,
    }
    about = sys.modules[study.__name__].__doc__ or ""  # type: ignore[attr-defined]
    if is_full(cfg):
        from experiments.full.plan import planned

        result |= {
            "dry_run": is_dry(cfg),
            "plan": planned(cfg.study.name, settings_of(study, chosen(cfg)), len(cfg.seeds)),
        }
    if is_dry(cfg):
        about = f"A dry run on random weights: all of the code was run, and no number here means anything.\n\n{about}"
    write_json(folder / "study.json", result)
    write_exhibits(made, folder)
    study_page(result, about, made, [json.loads(one) for one in lines]).write(folder / "report.html")
    return findings


if __name__ == "__main__":
    main()
