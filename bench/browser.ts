/** A browser without pages: a cookie, what its tabs share, and a network that loses replies. The tabs are the real thing. */
import { readFileSync } from 'node:fs'
import { compileFunction } from 'node:vm'
import ts from 'typescript'
import type { Session, SessionOptions } from '../src/sdk/browser-session.ts'

export interface Browser {
  /** Another tab that loads `latchkey/browser`. */
  openTab(): Session
  seen: Traffic
}

/** What went over its network. */
export interface Traffic {
  requests: number
  lost: number
  refreshes: number
  /** The most at a time. */
  refreshesAtOnce: number
  /** When the first refresh and the last were sent, in milliseconds. */
  firstAt: number
  lastAt: number
  /** How many access tokens they brought, and for how long all of these together are good. */
  tokens: number
  lifetimeSeconds: number
}

export type Sharing = 'locks' | 'storage' | 'nothing'

export interface BrowserOptions {
  /** Of its pages, and of the service. */
  origin: string
  /** Who answers for that, at random. */
  instanceUrls: readonly string[]
  refreshToken: string
  /** By what its tabs can agree: all that browsers have, all but Web Locks, or nothing. */
  sharing: Sharing
  /** Of the replies, from 0 to 1. */
  lostPart: number
}

/** The module in a function of its own, so that each tab has its own variables and finds its browser where a page has it. */
const loadModule = compileFunction(
  ts.transpileModule(readFileSync(new URL('../dist/sdk/browser.js', import.meta.url), 'utf8'), {
    compilerOptions: { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2023 },
  }).outputText,
  ['exports', 'globalThis', 'fetch'],
)

let names = 0

export function openBrowser({
  origin,
  instanceUrls,
  refreshToken,
  sharing,
  lostPart,
}: BrowserOptions): Browser {
  const locks = sharing === 'locks' ? createLocks() : undefined
  const localStorage = sharing === 'nothing' ? undefined : createStorage()
  const own = `${++names}`
  let cookie = `__Host-latchkey=${refreshToken}`
  let refreshesNow = 0
  const seen: Traffic = {
    requests: 0,
    lost: 0,
    refreshes: 0,
    refreshesAtOnce: 0,
    firstAt: 0,
    lastAt: 0,
    tokens: 0,
    lifetimeSeconds: 0,
  }

  async function send(request: Request): Promise<Response> {
    const { pathname, search } = new URL(request.url)
    const instance = instanceUrls[Math.floor(Math.random() * instanceUrls.length)]
    const sent = new Request(`${instance}${pathname}${search}`, request)
    sent.headers.set('origin', origin)
    sent.headers.set('sec-fetch-site', 'same-origin')
    sent.headers.set('cookie', cookie)
    const response = await fetch(sent)
    const body = response.status === 204 ? null : await response.arrayBuffer()
    seen.requests++
    if (Math.random() < lostPart) {
      seen.lost++
      throw new TypeError('The reply was lost.')
    }
    const [kept] = response.headers.getSetCookie()
    if (kept) cookie = kept.slice(0, kept.indexOf(';'))
    return new Response(body, response)
  }

  async function refresh(request: Request): Promise<Response> {
    const now = performance.now()
    seen.firstAt ||= now
    seen.lastAt = now
    seen.refreshes++
    seen.refreshesAtOnce = Math.max(seen.refreshesAtOnce, ++refreshesNow)
    try {
      const response = await send(request)
      const { expires_in = 0 } = (await response.clone().json()) as { expires_in?: number }
      if (response.ok) seen.tokens++
      seen.lifetimeSeconds += expires_in
      return response
    } finally {
      refreshesNow--
    }
  }

  return {
    seen,
    openTab() {
      const exports = {} as { createSession(options: SessionOptions): Session }
      loadModule(
        exports,
        {
          location: { href: `${origin}/` },
          navigator: { locks },
          localStorage,
          BroadcastChannel: class extends BroadcastChannel {
            constructor(name: string) {
              super(`${sharing === 'nothing' ? ++names : own} ${name}`)
            }
          },
        },
        (input: string | Request, init?: RequestInit) => {
          const request = new Request(input, init)
          return new URL(request.url).pathname === '/refresh' ? refresh(request) : send(request)
        },
      )
      return exports.createSession({ baseUrl: origin })
    },
  }
}

/** Web Locks, as far as the module uses them: Node has none before 24. */
function createLocks() {
  const queues = new Map<string, Promise<void>>()
  return {
    async request<T>(
      name: string,
      { ifAvailable = false }: { ifAvailable?: boolean },
      work: (lock: object | null) => Promise<T>,
    ): Promise<T> {
      const before = queues.get(name)
      if (before && ifAvailable) return work(null)
      const done = (before ?? Promise.resolve()).then(() => work({ name }))
      const queue = done
        .then(
          () => {},
          () => {},
        )
        .then(() => {
          if (queues.get(name) === queue) queues.delete(name)
        })
      queues.set(name, queue)
      return done
    },
  }
}

function createStorage() {
  const items = new Map<string, string>()
  return {
    getItem: (key: string) => items.get(key) ?? null,
    setItem: (key: string, value: string) => void items.set(key, value),
    removeItem: (key: string) => void items.delete(key),
  }
}
