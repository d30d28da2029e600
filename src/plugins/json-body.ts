/** Bodies are JSON, refused rather than repaired. What two readers might read differently has no meaning here. */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Outcome } from '../outcomes.ts'

export default fp(
  async function jsonBody(app: FastifyInstance) {
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => {
      try {
        done(null, parse(body as Buffer))
      } catch (error) {
        done(error as Error)
      }
    })
  },
  { name: 'json-body' },
)

function parse(body: Buffer): unknown {
  // Many clients name the type of a body that they do not send.
  if (body.length === 0) return undefined
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body)
    value = JSON.parse(text)
  } catch {
    // Not JSON.parse's own message: it repeats the text, and there may be a password in it.
    throw new Outcome('invalid_request', { detail: 'The body is not JSON in UTF-8.' })
  }
  if (countNames(text) !== checkMembers(value)) {
    throw new Outcome('invalid_request', { detail: 'The body names a member twice.' })
  }
  return value
}

/** How many member names a JSON text has: in valid JSON, every string with a colon behind it is one. */
function countNames(text: string): number {
  let names = 0
  for (const [, colon] of text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?/g)) if (colon) names++
  return names
}

/**
 * How many members the value of that text has, refusing what Postgres or JavaScript would stumble over. Nesting may be
 * deep, so no recursion.
 */
function checkMembers(value: unknown): number {
  let members = 0
  const left = [value]
  while (left.length > 0) {
    const next = left.pop()
    if (typeof next === 'string' && (!next.isWellFormed() || next.includes('\0'))) {
      throw new Outcome('invalid_request', { detail: 'The body has a NUL or half a surrogate pair in it.' })
    }
    if (typeof next !== 'object' || next === null) continue
    if (Object.hasOwn(next, '__proto__')) {
      throw new Outcome('invalid_request', { detail: 'The body has a member named __proto__.' })
    }
    const inside = Object.values(next)
    if (!Array.isArray(next)) members += inside.length
    left.push(...inside)
  }
  return members
}
