/**
 * Refresh token rotation (RFC 9700 §4.14.2): each token is used once. Its second use is a repeat, if the reply to the first
 * may have been lost, or else theft. It cannot be told who of the two is the thief, so theft ends the session.
 */
import type { Audit, Origin } from '../audit/events.ts'
import { generationSubject } from '../bearer/revoked-entries.ts'
import type { Clock } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { alone, durably } from '../db/durably.ts'
import { createSealer } from '../db/sealing.ts'
import { Outcome } from '../outcomes.ts'
import type { IsRefused } from '../revocation/refused.ts'
import type { AccessTokens } from '../tokens/access-tokens.ts'
import { generateOpaqueToken, hashOpaqueToken } from '../tokens/opaque-tokens.ts'
import type { Endings } from './endings.ts'
import {
  findSuccession,
  hasJustEnded,
  type Link,
  lockSession,
  noteAccess,
  type Rotation,
  rotate,
} from './rotation.ts'
import { issueSessionTokens, type SessionFacts, type SessionTokens } from './session-tokens.ts'

/**
 * @throws Outcome `refresh_token_invalid` for whatever is not a refresh token of a live session, `refresh_token_reused` when
 *   the theft of one has ended its session, and what revoke throws
 */
export type Refresh = (refreshToken: string, origin: Origin) => Promise<SessionTokens>

export interface RefreshOptions {
  db: Database
  clock: Clock
  accessTokens: AccessTokens
  endings: Pick<Endings, 'awaitEnds' | 'endForgotten' | 'endStolen'>
  isRefused: IsRefused
  audit: Audit
  /** How long a refresh token waits to be used, without and with `remember`. */
  idleSeconds: number
  rememberSeconds: number
  /** How long a used token may be presented once more although its successor has been used. */
  graceSeconds: number
}

const sealingPurpose = 'refresh token successor'

export function createRefresh(options: RefreshOptions): Refresh {
  const { db, clock, accessTokens, endings, isRefused, audit } = options
  const { idleSeconds, rememberSeconds, graceSeconds } = options

  return async function refresh(refreshToken, origin) {
    const hash = hashOpaqueToken(refreshToken)
    const successor = generateOpaqueToken()
    const now = clock.now()
    const iat = Math.floor(now / 1000)
    const rotation: Rotation = {
      hash,
      successor: hashOpaqueToken(successor),
      sealedSuccessor: createSealer(refreshToken).seal(sealingPurpose, Buffer.from(successor)),
      now,
      idleEnd: (iat + idleSeconds) * 1000,
      rememberEnd: (iat + rememberSeconds) * 1000,
      accessEnd: accessTokens.latestExpiry(iat) * 1000,
      graceStart: now - graceSeconds * 1000,
      address: origin.address,
      userAgent: origin.userAgent,
    }
    const rotated = await alone(db, (db) => rotate(db, rotation))
    if (rotated && !(await isForgotten(rotated)))
      return issueSessionTokens(accessTokens, rotated, successor, iat)

    const repeated = await repeat(refreshToken, rotation)
    if (!repeated) {
      // Whoever hears that a session has ended finds it so everywhere: the hold of who ended it may not be over.
      if (await hasJustEnded(db, hash, now)) await endings.awaitEnds(origin)
      throw new Outcome('refresh_token_invalid')
    }
    const { session, succeeded } = repeated
    if (!succeeded) {
      await endings.endStolen(session, origin)
      throw new Outcome('refresh_token_reused')
    }
    if (await isForgotten(session)) {
      await endings.endForgotten({ sub: session.userId, sid: session.id }, origin)
      throw new Outcome('refresh_token_invalid')
    }
    const { newest, reason } = succeeded
    // One that was used up just now is repeated by nobody.
    if (!rotated && reason)
      audit.record({ event: 'refresh_token.repeated', sub: session.userId, sid: session.id, reason }, origin)
    return issueSessionTokens(accessTokens, session, newest, iat)
  }

  /**
   * Whether the database takes a session for live whose end is known all the same: it was set back to a backup, or the end was
   * not recorded. Or its generation has just ended, and the next look finds it under the next one.
   */
  async function isForgotten({ id, userId, generation }: SessionFacts): Promise<boolean> {
    const refused = await Promise.all([
      isRefused({ scope: 'session', subject: id }),
      isRefused({ scope: 'generation', subject: generationSubject(userId, generation) }),
    ])
    return refused.includes(true)
  }

  /**
   * Finds the newest unused token of the session for a repeat, never a second branch; none if the session was stolen.
   *
   * @returns undefined if it is of no live session
   */
  function repeat(refreshToken: string, rotation: Rotation) {
    const { hash, now, graceStart } = rotation
    return durably(db, async (tx): Promise<{ session: SessionFacts; succeeded?: Succeeded } | undefined> => {
      const session = await lockSession(tx, hash, now)
      if (!session) return undefined
      // In a statement of its own: the lock may have been waited for.
      const succession = await findSuccession(tx, hash)
      const succeeded = followSuccession(refreshToken, succession, graceStart)
      if (!succeeded) return { session }
      await noteAccess(tx, session.id, rotation)
      return { session, succeeded }
    })
  }
}

/** What a token that was used before is honoured by. */
interface Succeeded {
  newest: string
  /** Undefined if it was not used before. */
  reason: 'retry' | 'parallel' | undefined
}

/**
 * The newest token that came after this one, or undefined if it is presented too late: its successor has been used, so the
 * reply that brought it was not lost, and the grace is over.
 *
 * @param graceStart tokens used since then are in their grace, in milliseconds since the epoch
 */
function followSuccession(
  token: string,
  succession: readonly Link[],
  graceStart: number,
): Succeeded | undefined {
  const [presented, successor] = succession
  if (presented?.usedAt && successor?.usedAt && presented.usedAt <= graceStart) return undefined
  let newest = token
  for (const { usedAt, sealedSuccessor } of succession) {
    if (usedAt === null) break
    if (sealedSuccessor === null) return undefined
    newest = createSealer(newest).open(sealingPurpose, Buffer.from(sealedSuccessor)).toString()
  }
  const reason = successor?.usedAt ? 'parallel' : 'retry'
  return { newest, reason: presented?.usedAt ? reason : undefined }
}
