FROM python:3.12-slim

WORKDIR /app
COPY pyproject.toml setup.py README.md LICENSE ./
COPY fineserve_shapes fineserve_shapes
COPY locustfiles locustfiles
COPY datasets datasets
RUN pip install --no-cache-dir .

RUN useradd --create-home fineserve
USER fineserve
