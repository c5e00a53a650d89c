# The service alone: Python, the pinned packages, one user without privileges.
#   docker build -t lens-ship:0.1.0 .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md constraints.txt ./
COPY systemd systemd
COPY examples examples
COPY docs docs
COPY deploy deploy
COPY spooler spooler
COPY shipper shipper
ENV PIP_CONSTRAINT=/source/constraints.txt \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
# What builds and installs stays behind; pip is there only for a command of sqlite-utils.
RUN python -m pip wheel --no-deps --wheel-dir /wheels . \
 && python -m venv --without-pip /opt/lens-ship \
 && python -m pip --python /opt/lens-ship/bin/python install "$(echo /wheels/*.whl)[service]" \
 && python -m pip --python /opt/lens-ship/bin/python uninstall --yes pip

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /opt/lens-ship /opt/lens-ship
ENV PATH=/opt/lens-ship/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Numbers, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
ENTRYPOINT ["lens-ship"]
CMD ["run"]
