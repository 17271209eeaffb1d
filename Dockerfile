# docker build --tag daisi-ws .
# daisi-ws is PID 1: its supervisor obeys TERM, HUP and USR2, and reaps what its workers leave behind.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY setup.cfg pyproject.toml LICENSE README.md ./
COPY daisi_ws daisi_ws/
RUN python -m venv /opt/daisi-ws && /opt/daisi-ws/bin/pip install --no-cache-dir .

FROM python:${PYTHON}-slim
COPY --from=build /opt/daisi-ws /opt/daisi-ws
ENV PATH=/opt/daisi-ws/bin:$PATH
# Nothing is written but metric files in /tmp: the root may be read-only.
WORKDIR /tmp
USER 10001:10001
EXPOSE 8080 9464 50051
STOPSIGNAL SIGTERM
ENTRYPOINT ["daisi-ws"]
CMD ["serve"]
