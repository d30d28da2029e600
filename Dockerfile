# The service on its own: no compiler, no development dependency, no root. `npm run check:image` runs these steps without
# Docker, so they keep to what it understands.

# A minor version, so that patches come with each build and nothing else does. Debian 12 is what the tests run on.
FROM node:24.20-bookworm-slim AS base
WORKDIR /app

FROM base AS build
COPY package.json package-lock.json ./
RUN npm ci
COPY tsconfig.json ./
COPY src src
RUN npm run build

FROM base AS dependencies
RUN apt-get update && apt-get install -y --no-install-recommends g++ make python3 && rm -rf /var/lib/apt/lists/*
COPY package.json package-lock.json ./
RUN npm ci --omit=dev
# Passwords are what a login costs. The binary that comes with argon2 is built for the oldest processor there is; built for
# x86-64-v3 (AVX2: servers since 2013) it hashes twice as fast, and hashes the same. What a processor does not know ends the
# process with SIGILL as it starts, on an old host or one whose virtual machines hide AVX2. Then build with
# --build-arg ARGON2_MARCH=x86-64, or set PREBUILDS_ONLY=1 where it runs, which takes the slow binary. `native` is for whoever
# runs the image on the machine that built it. On arm64 there is one level for all, the compiler's own.
ARG ARGON2_MARCH
# With the image's own headers, nothing is fetched.
ENV npm_config_nodedir=/usr/local
RUN if [ -z "$ARGON2_MARCH" ] && [ "$(uname -m)" = x86_64 ]; then ARGON2_MARCH=x86-64-v3; fi && \
    export CFLAGS="-O3 ${ARGON2_MARCH:+-march=$ARGON2_MARCH}" && export CXXFLAGS="$CFLAGS" && \
    npm rebuild argon2 --build-from-source && \
    test -e node_modules/argon2/build/Release/argon2.node

FROM base
ENV NODE_ENV=production HOST=0.0.0.0
COPY --from=dependencies /app/node_modules node_modules
COPY --from=build /app/dist dist
COPY package.json openapi.yaml ./
COPY migrations migrations
# All of the above belongs to root, so the service cannot change its own code.
USER node
EXPOSE 3000
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT || 3000}/health/ready`).then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
# node itself, as npm would keep SIGTERM from it; by the flags of `npm start`.
CMD ["node", "--max-semi-space-size=64", "dist/server.js"]
