import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import type { AuditEvent } from '../audit/events.ts'
import type { Verdict } from '../revocation/check.ts'
import { allSources, type RevocationMode, type Sources } from '../revocation/mode.ts'
import type { Tail } from '../revocation/tail.ts'

export interface RevocationMetrics {
  countCheck(verdict: Verdict, by: Sources): void
  /** Counts those that tell what became of a revocation. */
  countEvent(event: AuditEvent['event']): void
  observeHold(seconds: number): void
}

/** Over several workers, the worst one shows, and a mode is 1 if any of them is in it: an alert means the same with one or many. */
const aggregator = 'max'

export interface RevocationMetricsOptions {
  registry: Registry
  tail: Pick<Tail, 'size' | 'ageMs'>
  mode(): Promise<RevocationMode>
}

export function createRevocationMetrics({
  registry,
  tail,
  mode,
}: RevocationMetricsOptions): RevocationMetrics {
  const registers = [registry]
  // Counted by hand and read when asked for: a labelled counter costs more than the rest of a check.
  const checks = Object.fromEntries(
    allSources.map((by) => [by, { live: 0, revoked: 0, unknown: 0 }]),
  ) as Record<Sources, Record<Verdict, number>>
  new Counter({
    name: 'latchkey_checks_total',
    help: 'Checks of access tokens, by who could tell and by verdict',
    labelNames: ['mode', 'outcome'],
    registers,
    collect() {
      this.reset()
      for (const [by, verdicts] of Object.entries(checks))
        for (const [outcome, count] of Object.entries(verdicts)) this.inc({ mode: by, outcome }, count)
    },
  })
  const revocations = new Counter({
    name: 'latchkey_revocations_total',
    help: 'Revocations, by what became of them',
    labelNames: ['outcome'],
    registers,
  })
  const hold = new Histogram({
    name: 'latchkey_hold_seconds',
    help: 'From the commit of a revocation to its acknowledgement',
    buckets: [0.05, 0.1, 0.2, 0.3, 0.5, 1, 2],
    registers,
  })
  new Gauge({
    name: 'latchkey_mode',
    help: '1 for who answers the checks now, 0 for the others',
    labelNames: ['mode'],
    aggregator,
    registers,
    async collect() {
      const now = (await mode()).mode
      for (const one of allSources) this.set({ mode: one }, one === now ? 1 : 0)
    },
  })
  new Gauge({
    name: 'latchkey_tail_age_seconds',
    help: 'How long ago the last look at the record was sent that succeeded',
    aggregator,
    registers,
    collect() {
      this.set(tail.ageMs() / 1000)
    },
  })
  new Gauge({
    name: 'latchkey_live_entries',
    help: 'Revocations that this instance holds in memory',
    aggregator,
    registers,
    collect() {
      this.set(tail.size)
    },
  })

  return {
    countCheck(verdict, by) {
      checks[by][verdict]++
    },
    countEvent(event) {
      const [subject, outcome = ''] = event.split('.')
      if (subject === 'revocation') revocations.inc({ outcome })
    },
    observeHold: (seconds) => hold.observe(seconds),
  }
}
