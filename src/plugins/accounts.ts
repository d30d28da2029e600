import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { type Administration, createAdministration } from '../accounts/administration.ts'
import { ensureFirstAdmin } from '../accounts/first-admin.ts'
import { createLogin, type LogIn } from '../accounts/login.ts'
import { createOwnPassword } from '../accounts/own-password.ts'
import { type ChangePassword, createPasswordChange } from '../accounts/password-change.ts'
import { createPasswordRules } from '../accounts/password-rules.ts'
import { createPasswords } from '../accounts/passwords.ts'
import { createReauthentication, type Reauthenticate } from '../accounts/reauthentication.ts'
import { createRegistration } from '../accounts/registration.ts'
import { type Account, accountOf, findAccount, findUserByName } from '../accounts/users.ts'
import type { Origin } from '../audit/events.ts'
import type { Config } from '../config.ts'
import { Outcome } from '../outcomes.ts'

declare module 'fastify' {
  interface FastifyInstance {
    accounts: {
      register(
        account: { username: string; password: string; email?: string },
        origin: Origin,
      ): Promise<Account>
      logIn: LogIn
      reauthenticate: Reauthenticate
      changePassword: ChangePassword
      find(id: string): Promise<Account | undefined>
      /** By any spelling of the name. @throws Outcome `not_found` */
      findIdByName(username: string): Promise<string>
    } & Administration
  }
}

export interface AccountsOptions {
  config: Pick<Config, 'serviceName' | 'passwordMinLength' | 'passwords' | 'firstAdmin'>
}

export default fp(
  async function accounts(app: FastifyInstance, { config }: AccountsOptions) {
    const { clock, audit, sessions, accessTokens } = app
    const { revoke, isRefused } = app.revocation
    const { db } = app.database
    const passwords = await createPasswords(config.passwords)
    const { serviceName, passwordMinLength: minLength } = config
    const passwordRules = createPasswordRules({ minLength, serviceName })
    const register = createRegistration({ db, clock, passwordRules, passwords, audit })
    const proveOwner = createOwnPassword({ db, passwords, audit })
    if (config.firstAdmin) await ensureFirstAdmin({ db, register, audit, ...config.firstAdmin })
    app.decorate('accounts', {
      register: async (account, origin) => accountOf(await register(account, origin)),
      logIn: createLogin({ db, passwords, sessions, isRefused, audit }),
      reauthenticate: createReauthentication({ clock, accessTokens, proveOwner, revoke, audit }),
      changePassword: createPasswordChange({
        clock,
        accessTokens,
        assertFresh: sessions.assertFresh,
        proveOwner,
        passwordRules,
        passwords,
        revoke,
        audit,
      }),
      find: (id: string) => findAccount(db, id),
      async findIdByName(username) {
        const user = await findUserByName(db, username)
        if (!user) throw new Outcome('not_found')
        return user.id
      },
      ...createAdministration({ db, clock, accessTokens, sessions, register, revoke, audit }),
    })
  },
  { name: 'accounts', dependencies: ['clock', 'audit', 'database', 'revocation', 'tokens', 'sessions'] },
)
