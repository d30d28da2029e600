/** What a page can ask of `latchkey/browser`, and what it is told. Types only: a page loads nothing of this. */

export interface SessionOptions {
  /** Where latchkey is: https://auth.example.org. */
  baseUrl: string
  /** Origins that the access token may be sent to, besides latchkey's and the page's own. */
  apis?: readonly string[]
  /** Where the refresh token is: in a cookie, which needs the same site, or in the memory of the tabs, which a reload empties. */
  keep?: 'cookie' | 'memory'
}

export interface Credentials {
  username: string
  password: string
  /** Asks for a longer session. */
  remember?: boolean
}

/** What finishes a login that was answered by `mfa_required`. */
export interface SecondFactor {
  /** Of that SessionError. */
  mfaToken: string
  code: string
}

/** Whose session it is, as its access token says. */
export interface User {
  id: string
  roles: readonly string[]
  sessionId: string
}

export interface Change {
  /** Undefined: nobody is logged in here any more. */
  user: User | undefined
  /** `ended` is what the service did: elsewhere somebody logged out, or it was too long ago, or a token was stolen. */
  reason: 'logged_in' | 'logged_out' | 'ended' | 'changed'
}

export interface Session {
  /** Undefined while nobody is logged in, or nobody knows yet. */
  readonly user: User | undefined
  /** When the access token expires, in milliseconds since the epoch. A fetch renews it before. */
  readonly expiresAt: number | undefined
  /** Resolves when it is known who is logged in. Rejects with a SessionError where that could not be found out: fetch tries again. */
  readonly ready: Promise<User | undefined>
  /**
   * Ends the session before, if there is one.
   *
   * @throws SessionError with the service's `code`, or `offline`. `mfa_required` has a `mfaToken`: go on with that and a code
   */
  login(shown: Credentials | SecondFactor): Promise<User>
  /**
   * Proves once more who is logged in, for what answers `reauthentication_required`.
   *
   * @throws SessionError `invalid_current_password`, `mfa_required` if it takes a code too, `logged_out`, or whatever the service says
   */
  reauthenticate(proof: { password: string; code?: string }): Promise<void>
  /**
   * This session goes on, and all others have ended.
   *
   * @throws SessionError `reauthentication_required`, `invalid_current_password`, `weak_password`, `logged_out`, or whatever the service says
   */
  changePassword(change: { currentPassword: string; newPassword: string }): Promise<void>
  /**
   * Ends this session, the others of the account, or all of them. Unless it is the others, nobody is logged in here from then on, in any
   * tab, whatever is thrown: that it is not certain that the session has ended elsewhere too. Of a session in a cookie, the next page
   * leaves once more what nobody answered to.
   *
   * @throws SessionError
   */
  logout(options?: { scope?: 'session' | 'others' | 'all' }): Promise<void>
  /**
   * The browser's own fetch, with the access token. Where the session turns out to have ended, the answer is the 401. What was asked
   * for one account is never asked for another, whoever logs in meanwhile.
   *
   * @throws SessionError `logged_out`, `foreign_origin`, `offline`, or whatever keeps the token from being renewed; and what its
   *   signal was aborted with
   */
  fetch(input: string | URL | Request, init?: RequestInit): Promise<Response>
  /** @returns how to stop being told */
  onChange(listener: (change: Change) => void): () => void
  /** Leaves the other tabs. The session goes on, and this tab hears nothing more of it. */
  close(): void
}
