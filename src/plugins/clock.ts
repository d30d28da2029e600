import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { type Clock, createServerClock } from '../db/clock.ts'

declare module 'fastify' {
  interface FastifyInstance {
    clock: Clock
  }
}

export interface ClockOptions {
  /** Another clock than Postgres's, for tests that must not wait. */
  clock: Clock | undefined
}

export default fp(
  async function clock(app: FastifyInstance, options: ClockOptions) {
    app.decorate('clock', options.clock ?? createServerClock())
  },
  { name: 'clock' },
)
