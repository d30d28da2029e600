/**
 * `latchkey/browser`, for pages: one session in all tabs of an origin. The access token is in their memory and nowhere else. The
 * refresh token is in a cookie that no script can read, or in that memory too. One tab at a time refreshes, and tells the others.
 * It is one module without imports, so that a page can load it as it is.
 */

import type { Change, Session, SessionOptions, User } from './browser-session.ts'

export type { Change, Credentials, Session, SessionOptions, User } from './browser-session.ts'

/** All that goes wrong here. `code` is the service's, or `offline`, `logged_out`, `foreign_origin`. */
export class SessionError extends Error {
  override readonly name = 'SessionError'
  readonly code: string
  /** Of the service's answer, if there was one. */
  readonly status: number | undefined
  readonly retryAfterSeconds: number | undefined

  constructor(
    code: string,
    message = code,
    {
      status,
      retryAfterSeconds,
      cause,
    }: { status?: number; retryAfterSeconds?: number; cause?: unknown } = {},
  ) {
    super(message, { cause })
    this.code = code
    this.status = status
    this.retryAfterSeconds = retryAfterSeconds
  }
}

/** What this needs of a browser, as far as it has it. */
interface Environment {
  /** The page's. */
  origin: string
  locks:
    | {
        request<T>(
          name: string,
          options: { ifAvailable?: boolean },
          work: (lock: unknown) => Promise<T>,
        ): Promise<T>
      }
    | undefined
  storage:
    | {
        getItem(key: string): string | null
        setItem(key: string, value: string): void
        removeItem(key: string): void
      }
    | undefined
  openChannel(name: string): {
    postMessage(message: unknown): void
    onmessage: ((event: { data: Message }) => void) | null
    close(): void
  }
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

type Message = News | 'hello'
type Reply = Record<string, unknown>

/** A service that does not answer is one that is away. */
const deadlineMs = 10_000
/** How long another tab may take to say what it knows. */
const newsMs = 100
/** What was going on when a tab was closed lasts no longer. */
const leaseMs = deadlineMs + 1_000

export function createSession({ baseUrl, apis = [], keep = 'cookie' }: SessionOptions): Session {
  const { origin, locks, storage, openChannel } = browser()
  const base = baseUrl.replace(/\/$/, '')
  const origins = [base, origin, ...apis].map((url) => new URL(url, origin).origin)
  const name = `latchkey ${base}`
  const channel = openChannel(name)
  const listeners = new Set<(change: Change) => void>()
  let held: Held | undefined
  /** Whether `held` is what the service said last. */
  let isKnown = keep === 'memory'
  let changedAt = 0
  let refreshAt = 0
  let retryAt = 0
  let failure: unknown
  let refreshing: Promise<void> | undefined
  let onNews = () => {}

  function take({ held: next, at, reason }: News): void {
    if (at < changedAt) return
    const isOther = JSON.stringify(next?.user) !== JSON.stringify(held?.user)
    const change: Change = { user: next?.user, reason: held && next ? 'changed' : reason }
    held = next
    isKnown = true
    changedAt = at
    // Each tab at another time, so that most find it done.
    if (next) refreshAt = next.expiresAt - next.lifetime * Math.random() * 0.01
    // Not now: whatever goes wrong with who is told, the session goes on.
    if (isOther) for (const listener of listeners) queueMicrotask(() => listener(change))
  }

  function tell(next: Held | undefined, reason: Change['reason']): void {
    const news = { held: next, at: Math.max(Date.now(), changedAt + 1), reason }
    channel.postMessage(news)
    take(news)
  }

  channel.onmessage = ({ data }) => {
    if (data !== 'hello') take(data)
    else if (held) channel.postMessage({ held, at: changedAt, reason: 'logged_in' })
    onNews()
  }

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
    return locks.request(name, {}, async () => {
      // What was done meanwhile may be on its way here.
      await news(since)
      return work()
    })
  }

  /** The same without Web Locks, but for tabs that begin in the same moment: the service makes one refresh of theirs. */
  async function leased<T>(work: () => Promise<T>): Promise<T> {
    const key = `${name} lease`
    const mine = `${Math.random()}`
    const holder = () => {
      const [id, until] = storage?.getItem(key)?.split(' ') ?? []
      return Date.now() < Number(until) ? id : undefined
    }
    for (const end = Date.now() + leaseMs; storage && holder() !== mine && Date.now() < end; ) {
      if (!holder()) storage.setItem(key, `${mine} ${Date.now() + leaseMs}`)
      await news(changedAt)
    }
    try {
      return await work()
    } finally {
      if (holder() === mine) storage?.removeItem(key)
    }
  }

  async function post(path: string, body?: object, token?: string): Promise<Reply> {
    const headers = {
      ...(body && { 'content-type': 'application/json' }),
      ...(token && { authorization: `Bearer ${token}` }),
    }
    let response: Response
    let reply: Reply
    try {
      response = await fetch(base + path, {
        method: 'POST',
        credentials: keep === 'cookie' ? 'include' : 'omit',
        signal: AbortSignal.timeout(deadlineMs),
        headers,
        ...(body && { body: JSON.stringify(body) }),
      })
      reply = response.status === 204 ? {} : ((await response.json()) as Reply)
    } catch (cause) {
      throw offline(cause)
    }
    if (response.ok) return reply
    const { status } = response
    const retryAfterSeconds = Number(response.headers.get('retry-after')) || 1
    const { code = 'unavailable', detail } = reply as { code?: string; detail?: string }
    throw new SessionError(code, detail, { status, retryAfterSeconds })
  }

  function receive({ access_token, expires_in, refresh_token }: Reply, reason: Change['reason']): User {
    const token = `${access_token}`
    // It was counted from the second that had begun.
    const lifetime = Number(expires_in) * 1000 - 1000
    const { sub, sid, roles } = claimsOf(token)
    const user: User = { id: sub, roles, sessionId: sid }
    const kept = refresh_token === undefined ? {} : { refreshToken: refresh_token as string }
    tell({ token, lifetime, expiresAt: Date.now() + lifetime, ...kept, user }, reason)
    return user
  }

  /** Gets another access token in the place of one, unless another tab has. */
  function refresh(old: string | undefined): Promise<void> {
    refreshing ??= alone(async () => {
      if (held?.token !== old || (!held && isKnown)) return
      if (Date.now() < retryAt) throw failure
      try {
        if (!held && storage?.getItem(name)) await leave('session')
        const { refreshToken } = held ?? {}
        receive(
          await post('/refresh', refreshToken ? { refresh_token: refreshToken } : undefined),
          'logged_in',
        )
      } catch (error) {
        failure = error
        const { status, retryAfterSeconds = 1 } = error as SessionError
        if (status === 401) tell(undefined, 'ended')
        else retryAt = Date.now() + retryAfterSeconds * 1000
        throw error
      }
    }).finally(() => {
      refreshing = undefined
    })
    return refreshing
  }

  async function findToken(): Promise<string> {
    const { token, expiresAt } = held ?? {}
    if (!isKnown || (token && Date.now() >= refreshAt))
      await refresh(token).catch((error) => {
        // As long as it is good, it is good enough.
        if (!held || Date.now() >= (expiresAt ?? 0)) throw held || !isKnown ? error : loggedOut()
      })
    if (!held) throw loggedOut()
    return held.token
  }

  async function restore(): Promise<User | undefined> {
    channel.postMessage('hello')
    await news(changedAt)
    if (!isKnown)
      await refresh(undefined).catch((error) => {
        if (!isKnown) throw error
      })
    return held?.user
  }

  /** Any answer clears the cookie. Without one it is left once more, by whoever would use it next. */
  async function leave(scope: string, body?: object, token?: string): Promise<void> {
    storage?.setItem(name, 'leaving')
    try {
      await post(`/logout?scope=${scope}`, body, token)
    } catch (error) {
      const { status } = error as SessionError
      if (status === undefined) throw error
      storage?.removeItem(name)
      if (status !== 401 || scope !== 'session') throw error
    }
    storage?.removeItem(name)
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

    async login({ username, password, remember = false }) {
      await settled
      const body = { username, password, remember, session: keep === 'cookie' ? 'cookie' : 'body' }
      return alone(async () => {
        const user = receive(await post('/login', body), 'logged_in')
        storage?.removeItem(name)
        return user
      })
    },

    async logout({ scope = 'session' } = {}) {
      await settled
      // To end others it must be live; who leaves can do without.
      const token = scope === 'session' ? held?.token : await findToken().catch(() => held?.token)
      const { refreshToken } = held ?? {}
      if (scope === 'others') return void (await post('/logout?scope=others', undefined, token))
      tell(undefined, 'logged_out')
      await alone(async () => {
        // Another tab may have got a token meanwhile.
        if (held) tell(undefined, 'logged_out')
        await leave(scope, token || !refreshToken ? undefined : { refresh_token: refreshToken }, token)
      })
    },

    async fetch(input, init) {
      const request = asRequest(input, init)
      if (!origins.includes(new URL(request.url).origin))
        throw new SessionError(
          'foreign_origin',
          `The access token is not for ${new URL(request.url).origin}.`,
        )
      await settled
      const send = async (request: Request, token: string) => {
        request.headers.set('authorization', `Bearer ${token}`)
        return fetch(request).catch((cause) => {
          throw request.signal.aborted ? cause : offline(cause)
        })
      }
      const token = await findToken()
      const answer = await send(request.clone() as Request, token)
      if (answer.status !== 401 || !(await isOver(answer))) return answer
      try {
        await refresh(token)
      } catch (error) {
        if (!held) return answer
        throw error
      }
      return held ? send(request, held.token) : answer
    },

    onChange(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },

    close: () => channel.close(),
  }
}

function asRequest(input: string | URL | Request, init?: RequestInit): Request {
  try {
    return new Request(input, init)
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
async function isOver(answer: Response): Promise<boolean> {
  const { code } = (await answer
    .clone()
    .json()
    .catch(() => ({}))) as Reply
  if (code) return code === 'token_expired' || code === 'token_revoked'
  return /invalid_token/.test(answer.headers.get('www-authenticate') ?? '')
}

function browser(): Environment {
  const { navigator, location } = globalThis as unknown as {
    navigator: { locks?: Environment['locks'] }
    location: { origin: string }
  }
  return {
    origin: location.origin,
    locks: navigator.locks,
    storage: findStorage(),
    openChannel: (name) => new BroadcastChannel(name) as unknown as ReturnType<Environment['openChannel']>,
  }
}

/** Nothing where pages may keep nothing: it cannot be asked for, or a WebView has none. What does not fit is not kept. */
function findStorage(): Environment['storage'] {
  try {
    const { localStorage: storage } = globalThis as unknown as { localStorage?: Environment['storage'] }
    if (!storage) return undefined
    return {
      getItem: (key) => storage.getItem(key),
      removeItem: (key) => storage.removeItem(key),
      setItem(key, value) {
        try {
          storage.setItem(key, value)
        } catch {}
      },
    }
  } catch {
    return undefined
  }
}
