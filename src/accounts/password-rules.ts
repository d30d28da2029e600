/**
 * What may be chosen as a password (NIST SP 800-63B-4 §3.1.1.2, OWASP ASVS 5.0 V6.2): what is long enough, and not among what
 * is tried first. There are no rules of composition.
 */
import { dictionary } from '@zxcvbn-ts/language-common'
import { Outcome } from '../outcomes.ts'
import { fold, usernameLength } from './usernames.ts'

export interface PasswordRules {
  /** @throws Outcome `weak_password` or `invalid_request` if this account may not have this password */
  assertAcceptable(password: string, account: { username: string; email?: string | null | undefined }): void
}

export interface PasswordRulesOptions {
  /** In code points of the NFC form. */
  minLength: number
  /** What people know the service by. */
  serviceName: string
}

const maxLength = 256
const shortestCore = 4

/** Where fingers go by themselves. */
const sequences = [
  'abcdefghijklmnopqrstuvwxyz',
  'qwertyuiopasdfghjklzxcvbnm',
  'qwertzuiopasdfghjklyxcvbnm',
  '0123456789'.repeat(maxLength / 10 + 1),
]

const lengthOf = (text: string) => [...text].length

export function createPasswordRules({ minLength, serviceName }: PasswordRulesOptions): PasswordRules {
  const commonPasswords = new Set(dictionary['passwords-common'].map(fold))

  const isTriedFirst = (text: string) =>
    commonPasswords.has(text) || sequences.some((sequence) => sequence.includes(text))

  /** One piece that is short or common, again and again: no harder to guess than the piece. Bounded, for folding makes some very long. */
  function isRepetition(text: string): boolean {
    for (let length = 1; length < text.length && length < maxLength; length++) {
      const piece = text.slice(0, length)
      if (!piece.repeat(Math.ceil(text.length / length)).startsWith(text)) continue
      if (length < minLength || (length <= text.length / 2 && isTriedFirst(piece))) return true
    }
    return false
  }

  /** What is wrong with a password that is long enough. */
  function findWeakness(password: string, username: string, email: string): string | undefined {
    const folded = fold(password)
    // With digits and signs around it, it is tried soon after.
    const core = folded.replace(/^[^\p{L}]+|[^\p{L}]+$/gu, '')
    for (const text of core.length < shortestCore ? [folded] : [folded, core]) {
      if (isTriedFirst(text)) return 'This password is one of those that are tried first.'
      if (isRepetition(text)) return 'This password is a short one that is repeated.'
    }
    const names = {
      'your username': username,
      'the name in your e-mail address': email.slice(0, email.lastIndexOf('@')),
      'the name of this service': serviceName,
    }
    for (const [whose, name] of Object.entries(names))
      if (lengthOf(name) >= usernameLength.min && folded.includes(fold(name)))
        return `A password must not have ${whose} in it.`
    return undefined
  }

  return {
    assertAcceptable(password, { username, email }) {
      const length = lengthOf(password.normalize('NFC'))
      if (length > maxLength)
        throw new Outcome('invalid_request', {
          detail: `A password may have at most ${maxLength} characters.`,
        })
      const weakness =
        length < minLength
          ? `A password needs at least ${minLength} characters.`
          : findWeakness(password, username, email ?? '')
      if (weakness !== undefined)
        throw new Outcome('weak_password', {
          detail: `${weakness} A few words that only you would put together will do.`,
        })
    },
  }
}
