# Errata on CPUs:  docker build -t errata . && docker run --rm --security-opt seccomp=unconfined errata make demo
# Programs of a policy run in a sandbox of namespaces, which Docker's own seccomp profile forbids; without the option the
# sandbox falls back to weaker layers, or says that it cannot isolate (python -m experiments.doctor).
FROM python:3.11.13-slim-bookworm

# gcc is for pycosat, on which reasoning-gym depends and of which there is no wheel.
RUN apt-get update \
 && apt-get install -y --no-install-recommends git make gcc libc6-dev chromium chromium-driver \
 && rm -rf /var/lib/apt/lists/*

# Where packages come from, if not from pip's own choice; an index with CPU builds of torch saves gigabytes.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_CONSTRAINT=/errata/constraints.txt PATH=/errata/.venv/bin:$PATH

WORKDIR /errata
# What is installed changes more seldom than the code.
COPY pyproject.toml constraints.txt Makefile README.md LICENSE ./
RUN mkdir -p rl/analysis rl/backends rl/config envs/tasks rewards/sandbox && make setup
COPY . .
RUN touch .venv/.installed

CMD ["python", "-m", "experiments.doctor"]
