/**
 * `latchkey/browser`, for pages: one session in all tabs of an origin. The access token is in their memory and nowhere else. The
 * refresh token is in a cookie that no script can read, or in that memory too. One tab at a time refreshes, and tells the others.
 * It is one module without imports, so that a page can load it as it is.
 */

import type { Change, Credentials, SecondFactor, Session, SessionOptions, User } from './browser-session.ts'

export type { Change, Credentials, SecondFactor, Session, SessionOptions, User } from './browser-session.ts'

interface Details {
  /** Of the service's answer, if there was one. */
  status?: number | undefined
  retryAfterSeconds?: number | undefined
  /** Of a `mfa_required`: what the second half of the login takes, and whose code will do. */
  mfaToken?: string | undefined
  methods?: readonly string[] | undefined
  cause?: unknown
}

/** All that goes wrong here. `code` is the service's, or `offline`, `logged_out`, `foreign_origin`. */
export class SessionError extends Error {
  override readonly name = 'SessionError'
  readonly code: string
  declare readonly status: Details['status']
  declare readonly retryAfterSeconds: Details['retryAfterSeconds']
  declare readonly mfaToken: Details['mfaToken']
  declare readonly methods: Details['methods']

  constructor(code: string, message = code, { cause, ...details }: Details = {}) {
    super(message, { cause })
    Object.assign(this, details)
    this.code = code
  }
}

/** What this needs of a browser, as far as it has it. */
interface Environment {
  /** Of the page. */
  href: string
  locks:
    | {
        request<T>(
          name: string,
          options: { ifAvailable?: boolean; signal?: AbortSignal },
          work: (lock: unknown) => Promise<T>,
        ): Promise<T>
      }
    | undefined
  Channel:
    | (new (
        name: string,
      ) => {
        postMessage(message: Message): void
        onmessage: ((event: { data: Message }) => void) | null
        close(): void
      })
    | undefined
}

/** What the tabs of a session have in common. */
interface Held {
  token: string
  /** In milliseconds, and since the epoch. */
  lifetime: number
  expiresAt: number
  /** Where there is no cookie. */
  refreshToken?: string
  user: User
}

interface News {
  held: Held | undefined
  /** Later news count. */
  at: number
  reason: Change['reason']
}

/** That the service did not answer, or did not want to. */
type Failure = Pick<SessionError, 'code' | 'message' | 'status' | 'retryAfterSeconds'>

/** `at` alone is of who knows of nobody. */
type Message = 'hello' | News | { at: number } | { failure: Failure }
type Reply = Record<string, unknown>
interface Problem {
  code?: string
  detail?: string
  mfa_token?: string
  methods?: string[]
}

interface Call {
  method?: string
  body?: object | undefined
  token?: string
  withCookie?: boolean
}

/** A service that does not answer is one that is away. */
const deadlineMs = 10_000
/** How long another tab may take to say what it knows. */
const newsMs = 100
/** What was going on when a tab was closed, or stood still, lasts no longer. */
const leaseMs = deadlineMs + 1_000
/** Whoever refuses a token that is younger has something else against it. */
const youngMs = 10_000

export function createSession({ baseUrl, apis = [], keep = 'cookie' }: SessionOptions): Session {
  const { href, locks, Channel } = browser()
  const base = baseUrl.replace(/\/$/, '')
  const origins = [originOf(base, href), originOf(href), ...apis.map((api) => originOf(api))]
  const name = `latchkey ${base}`
  let channel = Channel && new Channel(name)
  const listeners = new Set<(change: Change) => void>()
  let held: Held | undefined
  /** Whether `held` is what the service said last. */
  let isKnown = keep === 'memory'
  let changedAt = 0
  /** How often somebody has logged out. */
  let departures = 0
  let refreshAt = 0
  /** By a clock that nobody sets. */
  let retryAt = 0
  let failure: SessionError | undefined
  let refreshing: Promise<void> | undefined
  let onNews = () => {}

  function take({ held: next, at, reason }: News): void {
    if (at < changedAt) return
    const isOther = JSON.stringify(next?.user) !== JSON.stringify(held?.user)
    const change: Change = { user: next?.user, reason: held && next ? 'changed' : reason }
    held = next
    isKnown = true
    changedAt = at
    if (reason === 'logged_out') departures++
    // Each tab at another time, so that most find it done.
    if (next) refreshAt = next.expiresAt - next.lifetime * Math.random() * 0.01
    // Not now: whatever goes wrong with who is told, the session goes on.
    if (isOther) for (const listener of listeners) queueMicrotask(() => listener(change))
  }

  function tell(next: Held | undefined, reason: Change['reason']): void {
    const news = { held: next, at: Math.max(Date.now(), changedAt + 1), reason }
    channel?.postMessage(news)
    take(news)
  }

  function fail(error: SessionError): void {
    failure = error
    retryAt = performance.now() + (error.retryAfterSeconds ?? 1) * 1000
  }

  const hear = (message: Message): void => {
    if (message === 'hello')
      channel?.postMessage(held ? { held, at: changedAt, reason: 'logged_in' } : { at: changedAt })
    else if ('failure' in message) {
      const { failure } = message
      fail(new SessionError(failure.code, failure.message, failure))
    } else if ('reason' in message) {
      take(message)
      onNews()
    }
    // A clock may have been set back since then.
    else changedAt = Math.max(changedAt, message.at)
  }
  if (channel) channel.onmessage = ({ data }) => hear(data)

  /** The next thing that another tab says, or nothing. */
  const news = (since: number) =>
    new Promise<void>((resolve) => {
      onNews = resolve
      setTimeout(resolve, changedAt === since ? newsMs : 0)
    })

  /** One at a time, over all tabs. */
  async function alone<T>(work: () => Promise<T>): Promise<T> {
    if (!locks) return leased(work)
    const since = changedAt
    const first = await locks.request(
      name,
      { ifAvailable: true },
      async (lock) => lock && { done: await work() },
    )
    if (first) return (first as { done: T }).done
    const inTurn = locks.request(name, { signal: AbortSignal.timeout(leaseMs) }, async () => {
      // What was done meanwhile may be on its way here.
      await news(since)
      return work()
    })
    return inTurn.catch((error) => {
      // A tab stands still, as one does behind an alert.
      if (error.name === 'TimeoutError') return work()
      throw error
    })
  }

  /** The same without Web Locks, but for tabs that begin in the same moment: the service makes one refresh of theirs. */
  async function leased<T>(work: () => Promise<T>): Promise<T> {
    const key = `${name} lease`
    const mine = `${Math.random()}`
    const holder = () => {
      const [id, until] = stored('getItem', key)?.split(' ') ?? []
      return Date.now() < Number(until) ? id : undefined
    }
    for (const end = Date.now() + leaseMs; Date.now() < end; ) {
      if (!holder()) stored('setItem', key, `${mine} ${Date.now() + leaseMs}`)
      const isFull = !holder()
      if (!isFull) await news(changedAt)
      if (isFull || holder() === mine) break
    }
    try {
      return await work()
    } finally {
      if (holder() === mine) stored('removeItem', key)
    }
  }

  async function call(
    path: string,
    { method = 'POST', body, token, withCookie = true }: Call = {},
  ): Promise<Reply> {
    const headers = {
      ...(body && { 'content-type': 'application/json' }),
      ...(token && { authorization: `Bearer ${token}` }),
    }
    let response: Response
    let reply: Reply
    try {
      response = await fetch(base + path, {
        method,
        credentials: keep === 'cookie' && withCookie ? 'include' : 'omit',
        signal: AbortSignal.timeout(deadlineMs),
        headers,
        ...(body && { body: JSON.stringify(body) }),
      })
      // Networks that want to be logged in to answer 200 for others, and not in JSON.
      if (response.status === 204) reply = {}
      else reply = response.ok ? ((await response.json()) as Reply) : await readJson(response)
    } catch (cause) {
      throw offline(cause)
    }
    if (response.ok) return reply
    const { status } = response
    const retryAfterSeconds = Number(response.headers.get('retry-after')) || 1
    // Without a code it is not latchkey that says so.
    const { code = 'unavailable', detail, mfa_token: mfaToken, methods } = reply as Problem
    throw new SessionError(code, detail, { status, retryAfterSeconds, mfaToken, methods })
  }

  function receive(reply: Reply): User {
    const next = heldOf(reply)
    tell(next, 'logged_in')
    return next.user
  }

  /** Gets another access token in the place of one, unless another tab has. */
  function refresh(old: string | undefined): Promise<void> {
    refreshing ??= alone(async () => {
      if (held?.token !== old || (!held && isKnown)) return
      if (performance.now() < retryAt) throw failure
      const before = departures
      try {
        if (!held) await leaveMarked()
        const reply = await call('/refresh', { body: bodyOf(held) })
        // Another tab left meanwhile, knows older tokens only, and may be closed.
        if (departures !== before) await leave(stored('getItem', name) ?? 'session', heldOf(reply))
        else receive(reply)
      } catch (cause) {
        const error = cause as SessionError
        if (error.code.startsWith('refresh_token_')) tell(undefined, 'ended')
        else {
          fail(error)
          channel?.postMessage({ failure: { ...error, message: error.message } })
        }
        throw error
      }
    }).finally(() => {
      refreshing = undefined
    })
    return refreshing
  }

  async function findHeld(): Promise<Held> {
    const { token, expiresAt } = held ?? {}
    if (!isKnown || (token && Date.now() >= refreshAt))
      await refresh(token).catch((error) => {
        // As long as it is good, it is good enough.
        if (!held || Date.now() >= (expiresAt ?? 0)) throw held || !isKnown ? error : loggedOut()
      })
    if (!held) throw loggedOut()
    return held
  }

  async function restore(): Promise<User | undefined> {
    channel?.postMessage('hello')
    await news(changedAt)
    if (!isKnown)
      await refresh(undefined).catch((error) => {
        if (!isKnown) throw error
      })
    return held?.user
  }

  /**
   * Latchkey's answer clears the cookie. Without one it is left once more, by whoever would use it next.
   *
   * @param old as far as this tab knows it
   */
  async function leave(scope: string, old?: Held): Promise<void> {
    stored('setItem', name, scope)
    const path = `/logout?scope=${scope}`
    try {
      await call(path, { body: bodyOf(old) }).catch((error) => {
        // The cookie may have been deleted, or not be found now. The access token tells the session by itself.
        if (!old || (error.status !== 401 && !(error.status >= 500))) throw error
        return call(path, { token: old.token, withCookie: false })
      })
    } catch (error) {
      const { code, status } = error as SessionError
      if (code === 'offline' || code === 'unavailable') throw error
      stored('removeItem', name)
      if (status !== 401 || scope !== 'session') throw error
    }
    stored('removeItem', name)
  }

  async function leaveMarked(): Promise<void> {
    const scope = stored('getItem', name)
    if (scope)
      await leave(scope).catch((error) => {
        if (error.status !== 401) throw error
      })
  }

  /** What takes the password once more. Its reply is of the same session. */
  async function prove(path: string, method: string, body: object): Promise<void> {
    await settled
    const { user } = await findHeld()
    await alone(async () => {
      const before = held
      if (before?.user.id !== user.id) throw loggedOut()
      const reply = await call(path, { method, body, token: before.token })
      if (held === before) receive({ refresh_token: before.refreshToken, ...reply })
    })
  }

  const ready = restore()
  const settled = ready.catch(() => {})

  return {
    get user() {
      return held?.user
    },
    get expiresAt() {
      return held?.expiresAt
    },
    ready,

    async login({ mfaToken, ...shown }: Partial<Credentials & SecondFactor>) {
      await settled
      const body = { ...shown, mfa_token: mfaToken, session: keep === 'cookie' ? 'cookie' : 'body' }
      return alone(async () => {
        await leaveMarked()
        const old = held
        const user = receive(await call(mfaToken ? '/login/mfa' : '/login', { body }))
        stored('removeItem', name)
        // Nobody could reach it any more.
        if (old) await call('/logout', { token: old.token, withCookie: false }).catch(() => {})
        return user
      })
    },

    reauthenticate: (body) => prove('/reauthenticate', 'POST', body),

    changePassword: ({ currentPassword, newPassword }) =>
      prove('/me/password', 'PUT', { current_password: currentPassword, new_password: newPassword }),

    async logout({ scope = 'session' } = {}) {
      if (scope === 'others') {
        await settled
        return void (await alone(() => call('/logout?scope=others', { body: bodyOf(held) })))
      }
      const old = held
      tell(undefined, 'logged_out')
      // Should this tab be closed before its turn, whoever has that leaves.
      stored('setItem', name, scope)
      const isMarked = stored('getItem', name)
      await alone(async () => {
        if (isMarked && !stored('getItem', name)) return
        if (!held) await leave(scope, old)
        // Somebody has logged in meanwhile.
        else if (old) await call(`/logout?scope=${scope}`, { token: old.token, withCookie: false })
      })
    },

    async fetch(input, init) {
      const request = valid(() => new Request(input, init))
      const { signal } = request
      const origin = originOf(request.url)
      if (!origins.includes(origin))
        throw new SessionError('foreign_origin', `The access token is not for ${origin}.`)
      const send = async (request: Request, token: string) => {
        request.headers.set('authorization', `Bearer ${token}`)
        return fetch(request).catch((cause) => {
          throw signal.aborted ? cause : offline(cause)
        })
      }
      // What one has asked for is not asked for by another.
      let asker = held?.user.id
      const before = await unlessAborted(signal, settled.then(findHeld))
      asker ??= before.user.id
      if (before.user.id !== asker) throw loggedOut()
      const answer = await send(request.clone() as Request, before.token)
      if (answer.status !== 401 || !(await isOver(answer, before))) return answer
      try {
        await unlessAborted(signal, refresh(before.token))
      } catch (error) {
        if (!held) return answer
        throw error
      }
      return held?.user.id === asker ? send(request, held.token) : answer
    },

    onChange(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },

    close() {
      channel?.close()
      channel = undefined
    },
  }
}

function heldOf({ access_token, expires_in, refresh_token }: Reply): Held {
  const token = `${access_token}`
  // It was counted from the second that had begun.
  const lifetime = Number(expires_in) * 1000 - 1000
  const { sub, sid, roles } = claimsOf(token)
  const kept = refresh_token === undefined ? {} : { refreshToken: refresh_token as string }
  const user = { id: sub, roles, sessionId: sid }
  return { token, lifetime, expiresAt: Date.now() + lifetime, ...kept, user }
}

/** What is sent where there is no cookie. */
const bodyOf = (held: Held | undefined) =>
  held?.refreshToken === undefined ? undefined : { refresh_token: held.refreshToken }

const originOf = (url: string, base?: string) => valid(() => new URL(url, base).origin)

function valid<T>(make: () => T): T {
  try {
    return make()
  } catch (cause) {
    throw new SessionError('invalid_request', `${cause}`, { cause })
  }
}

function claimsOf(token: string): { sub: string; sid: string; roles: string[] } {
  try {
    return JSON.parse(atob(`${token.split('.')[1]}`.replace(/-/g, '+').replace(/_/g, '/')))
  } catch (cause) {
    throw offline(cause)
  }
}

const offline = (cause: unknown) => new SessionError('offline', 'There was no answer.', { cause })
const loggedOut = () => new SessionError('logged_out', 'Nobody is logged in.')

/** Whether a 401 is about a token that was good: latchkey says so by its code, others by their challenge (RFC 6750). */
async function isOver(answer: Response, { expiresAt, lifetime }: Held): Promise<boolean> {
  const { headers } = answer
  if (/problem/.test(headers.get('content-type') ?? '')) {
    const { code } = await readJson(answer.clone() as Response).catch((): Reply => ({}))
    return code === 'token_expired' || code === 'token_revoked'
  }
  const isYoung = Date.now() < expiresAt - lifetime + youngMs
  return !isYoung && /invalid_token/.test(headers.get('www-authenticate') ?? '')
}

/** Of whatever came. @throws where not all of it came */
async function readJson(answer: Response): Promise<Reply> {
  const text = await answer.text()
  try {
    return Object(JSON.parse(text))
  } catch {
    return {}
  }
}

/** @throws what it was aborted with, however long the work takes */
function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const aborted = new Promise<never>((_, reject) => {
    const abort = () => reject(signal.reason)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
  })
  return Promise.race([work, aborted])
}

function browser(): Environment {
  const { navigator, location, BroadcastChannel } = globalThis as unknown as {
    navigator: { locks?: Environment['locks'] }
    location: { href: string }
    BroadcastChannel: Environment['Channel']
  }
  return { href: location.href, locks: navigator.locks, Channel: BroadcastChannel }
}

type Storage = Record<'getItem' | 'setItem' | 'removeItem', (...given: string[]) => string | null | undefined>

/** What the tabs keep together. Where pages may keep nothing there is nothing, and what does not fit is not kept. */
function stored(method: keyof Storage, ...given: string[]): string | null | undefined {
  try {
    return (globalThis as unknown as { localStorage: Storage }).localStorage[method](...given)
  } catch {
    return null
  }
}
