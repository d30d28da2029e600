/** What is worth telling about: one structured line and one row each, never with a password, a token or a key in it. */
import type { Clock } from '../db/clock.ts'
import { rowOf } from './rows.ts'
import type { Trail } from './trail.ts'

/** Where a request came from. */
export interface Origin {
  requestId: string
  address: string
  /** What of it is one client: an IPv4 address, or the /64 of an IPv6 one; empty if there is no address. */
  network: string
  /** Of its header, at most 256 characters; empty if there was none. */
  userAgent: string
}

export type LoginFailure =
  | 'unknown'
  | 'wrong_password'
  | 'disabled'
  | 'changed'
  | 'wrong_code'
  | 'challenge_over'

/** Of a client address, of that and an account together, of an account, and of tokens whose signature is wrong. */
export type LimitName = 'address' | 'login' | 'account' | 'forgery'

export type AuditEvent =
  /** `by` is who made it for somebody else. */
  | { event: 'account.registered'; sub: string; by?: string; roles?: readonly string[] }
  | { event: 'account.disabled' | 'account.enabled' | 'account.deleted'; sub: string; by: string }
  /** Its password was right, and a code is asked for. */
  | { event: 'login.challenged'; sub: string; methods: readonly string[] }
  | { event: 'login.succeeded'; sub: string; sid: string; amr: readonly string[] }
  /** `sub` is absent for a name that nobody has; the name itself is not told: people type passwords into that field. */
  | { event: 'login.failed'; sub?: string; reason: LoginFailure }
  /** `sub` is whose it was, where that is known. */
  | {
      event: 'revocation.acknowledged' | 'revocation.not_recorded' | 'revocation.unconfirmed'
      sub?: string
      reason: string
      subjects: readonly string[]
    }
  | { event: 'revocation.recorded_late' | 'revocation.dropped'; sub?: string; reason: string }
  | { event: 'refresh_token.reused'; sub: string; sid: string }
  /** A used one was honoured once more: its reply may have been lost (`retry`), or its successor was used already (`parallel`). */
  | { event: 'refresh_token.repeated'; sub: string; sid: string; reason: 'retry' | 'parallel' }
  | {
      event: 'session.reauthenticated' | 'reauthentication.failed' | 'account.password_changed'
      sub: string
      sid: string
    }
  | { event: 'account.password_reset' | 'account.email_verified'; sub: string }
  | { event: 'account.email_asked' | 'factor.refused'; sub: string; sid: string }
  /** For a name or an address that may be anybody's, which is not told. */
  | { event: 'recovery.asked' }
  | { event: 'mail_token.refused'; purpose: 'verify' | 'reset' }
  /** It could not be sent for as long as it would have been of use. */
  | { event: 'mail.dropped'; kind: string }
  /** Its address has been written to often enough. */
  | { event: 'mail.withheld'; kind: string; sub: string }
  | { event: 'factor.enrolled' | 'recovery_codes.renewed'; sub: string; sid: string }
  /** `by` is absent where its owner did. */
  | { event: 'factor.removed'; sub: string; by?: string }
  /** Nobody comes in by guessing any more, nor by knowing, in this way: `kind` as in accounts/guesses. */
  | { event: 'guessing.ended' | 'guess.refused'; sub?: string; kind: string }
  /** Whom guesses had kept out is let in again. */
  | { event: 'guessing.forgiven'; sub: string; by: string }
  | { event: 'account.recalled'; sub: string; sids: readonly string[]; reason: string; by: string }
  | { event: 'token.recalled'; jti: string; reason: string; by: string }
  | { event: 'account.roles_changed'; sub: string; roles: readonly string[]; by: string }
  | { event: 'account.first_admin'; sub: string }
  | { event: 'client.created'; client: string; scopes: readonly string[]; by: string }
  | { event: 'client.secret_renewed' | 'client.disabled'; client: string; by: string }
  | { event: 'client.token_issued'; client: string; scopes: readonly string[] }
  /** `by` is absent for a step that was due. */
  | { event: 'signing_key.next' | 'signing_key.active' | 'signing_key.removed'; kid: string; by?: string }
  /** Once for each client and window, by each instance (limit-hits). */
  | { event: 'limit.exceeded'; limit: LimitName; sub?: string }

export interface Audit {
  /** Never waits, never throws. */
  record(event: AuditEvent, origin?: Origin): void
}

export interface AuditOptions {
  log: { info(line: object, message: string): void }
  clock: Pick<Clock, 'now'>
  trail: Pick<Trail, 'add'>
}

export function createAudit({ log, clock, trail }: AuditOptions): Audit {
  return {
    record(event, origin) {
      log.info(
        { audit: event, ...(origin && { reqId: origin.requestId, address: origin.address }) },
        event.event,
      )
      trail.add(rowOf(event, origin, clock.now()))
    },
  }
}
