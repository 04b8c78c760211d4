# The demo, for docker-compose.yml: development server, DEBUG. Not a way to deploy.
FROM python:3.13-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 demo
WORKDIR /app

COPY pyproject.toml README.md LICENSE ./
COPY dbpatterns ./dbpatterns
RUN pip install "pip>=25.1" && pip install . --group demo

COPY manage.py ./
COPY demo ./demo
COPY docker/demo.sh /usr/local/bin/demo.sh

ENV DEMO_DATA_DIR=/var/lib/demo
RUN install -d -o demo -g demo /var/lib/demo
USER demo
EXPOSE 8000
CMD ["sh", "/usr/local/bin/demo.sh"]
