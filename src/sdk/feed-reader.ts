/** Follows the feed of revocations for as long as its process lives, whatever happens to the service meanwhile. */
import { setTimeout as delay } from 'node:timers/promises'
import { EventSourceParserStream } from 'eventsource-parser/stream'
import { after, ageOf, type Moment, rightNow } from '../bearer/moments.ts'
import type { RevocationEntry } from '../bearer/revoked-entries.ts'
import { fromSecurityEvent } from '../bearer/security-events.ts'
import { NotLetIn } from './service-client.ts'

export interface FeedReader {
  /** Reads until it is stopped. */
  start(): void
  stop(): void
  /**
   * Resolves when all that had been taken back before has been read. Rejects where it is stopped before, or its client is not let
   * in, which it goes on to try.
   */
  readonly ready: Promise<void>
  /** For how long nobody has told that nothing is missing, in milliseconds. */
  ageMs(): number
}

export interface FeedReaderOptions {
  url: string
  /** A token that may read it, asked for when there is none that the service takes. */
  getToken(signal: AbortSignal): Promise<string>
  onEntry(entry: RevocationEntry): void
  onChange(state: 'following' | 'lost', cause?: unknown): void
}

/** The service says something every 2 s. */
const silenceMs = 6_000
const shortestPauseMs = 50
const longestPauseMs = 5_000

export function createFeedReader({ url, getToken, onEntry, onChange }: FeedReaderOptions): FeedReader {
  const stopping = new AbortController()
  const { promise: ready, resolve: becomeReady, reject: giveUp } = withResolvers()
  // Whoever does not wait for it is told by onChange.
  ready.catch(() => {})
  let token: string | undefined
  let cursor: string | undefined
  let currentAt: Moment | undefined
  let failures = 0
  let lost = false

  /** One stream, to its end. @throws whatever ends it before it was of use */
  async function read(): Promise<void> {
    let wasCurrent = false
    let reason = ''
    const silence = new AbortController()
    let heardAt = rightNow()
    const timer = setTimeout(() => silence.abort(new Error('the feed is silent')), silenceMs)
    const signal = AbortSignal.any([stopping.signal, silence.signal])
    try {
      token ??= await getToken(signal)
      const headers = {
        accept: 'text/event-stream',
        authorization: `Bearer ${token}`,
        ...(cursor !== undefined && { 'last-event-id': cursor }),
      }
      const openedAt = rightNow()
      const response = await fetch(url, { headers, signal })
      // What is known stays known; all that is refused now is read once more.
      if (response.status === 410 || response.status === 400) cursor = undefined
      if (response.status === 401 || response.status === 403) token = undefined
      if (response.status !== 200 || !response.body) {
        await response.body?.cancel()
        throw new Error(`the feed answered ${response.status}`)
      }
      function onHeard(): void {
        // What a machine finds that has slept was true before it did.
        if (ageOf(heardAt) > silenceMs) throw new Error('the feed was silent')
        heardAt = rightNow()
        timer.refresh()
        if (wasCurrent && !lost && ageMs() > silenceMs) tell('lost', new Error('the record does not answer'))
      }
      const events = response.body
        .pipeThrough(new TextDecoderStream())
        .pipeThrough(new EventSourceParserStream({ onComment: onHeard }))
      for await (const { event, data, id } of events) {
        onHeard()
        if (event === 'revocation') onEntry(fromSecurityEvent(JSON.parse(data)))
        else if (event === 'heartbeat') {
          // By no clock but the service's, since a moment that was not before: it may have been on its way for long.
          currentAt = after(openedAt, JSON.parse(data).elapsed_ms ?? 0)
          if (ageMs() > silenceMs) throw new Error('the feed is late')
          wasCurrent = true
          noteCurrent()
        } else if (event === 'end') {
          token = undefined
          reason = JSON.parse(data).code
        }
        // Only now: what could not be read is asked for again.
        if (id !== undefined) cursor = id
      }
      if (!wasCurrent) throw new Error(`the feed ended before it had told all${reason && `: ${reason}`}`)
    } finally {
      clearTimeout(timer)
    }
  }

  const ageMs = () => (currentAt ? ageOf(currentAt) : Number.POSITIVE_INFINITY)

  function noteCurrent(): void {
    failures = 0
    becomeReady()
    if (lost) tell('following')
  }

  /** Whatever goes wrong with who is told, the feed is followed. */
  function tell(state: 'following' | 'lost', cause?: unknown): void {
    lost = state === 'lost'
    try {
      onChange(state, cause)
    } catch (error) {
      process.emitWarning(error as Error)
    }
  }

  async function readOn(): Promise<void> {
    while (!stopping.signal.aborted) {
      try {
        await read()
      } catch (error) {
        if (stopping.signal.aborted) return
        failures++
        if (error instanceof NotLetIn) giveUp(error)
        if (!lost) tell('lost', error)
      }
      // A stream ends with its token, and goes on with another one. Who fails waits longer each time; nobody waits as long as others.
      const pause = Math.min(longestPauseMs, shortestPauseMs * 2 ** failures) * (0.5 + Math.random() / 2)
      await delay(pause, undefined, { signal: stopping.signal }).catch(() => {})
    }
  }

  return {
    start: () => void readOn(),
    stop() {
      stopping.abort()
      giveUp(new Error('the verifier is closed'))
    },
    ready,
    ageMs,
  }
}

/** Promise.withResolvers, which Node 20 does not have. */
function withResolvers() {
  let resolve = () => {}
  let reject = (_reason: unknown) => {}
  const promise = new Promise<void>((...functions) => {
    ;[resolve, reject] = functions
  })
  return { promise, resolve, reject }
}
