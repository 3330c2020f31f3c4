# One image for both profiles: the ordinary torch build runs on CPU and on NVIDIA GPUs.
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 libxcb1 g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/sca
RUN python -m pip install --no-cache-dir uv
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY sca ./sca
COPY engines ./engines
COPY pipeline ./pipeline
COPY configs ./configs
ARG EXTRAS="[run]"
RUN uv pip install --system --no-cache --constraint constraints.txt --editable ".${EXTRAS}"

ENV RAY_USAGE_STATS_ENABLED=0 \
    PYTHONUNBUFFERED=1
WORKDIR /data
VOLUME ["/data"]
ENTRYPOINT ["sca"]
CMD ["--help"]
